"""A store from its opening to its closing: a client, and how the server is asked."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import attrs
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from flowstate.clock import Clock
from flowstate.driver import Durability
from flowstate.drivers.kit.resolving import Backoff, Failed, retried
from flowstate.drivers.redis.errors import failed
from flowstate.drivers.redis.scripts import Scripts
from flowstate.drivers.redis.settings import (
    DURABILITIES,
    Client,
    durability_of,
    read_settings,
    with_url,
)
from flowstate.errors import (
    DriverClosedError,
    StoreCorruptError,
    StoreUnavailableError,
    StoreVersionError,
)
from flowstate.tasks import preserve_cancellation

__all__ = ["OpenStore", "Settings"]

T = TypeVar("T")
VERSION = 2
UPGRADED_AT_A_TIME = 50
CLOSING_PAUSE = 0.05
PATIENCE = 1.2  # Times the timeout: the client's own error says more than ours.


@attrs.frozen
class Settings:
    """What a driver was told: see ``RedisDriver``."""

    store: "str | Client"
    namespace: str
    required: Durability
    wait_aof: tuple[int, int] | None
    timeout: float
    clock: Clock


class OpenStore:
    """One opening of a store. Every opening has a new one, for the event loop it is opened in.

    Attributes:
        client: to the server.
        prefix: of all keys.
        scripts: what the server can be asked to do.
        settings: what the driver was told.
        durability: what an acknowledged commit survives; known once it is open.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        store = settings.store
        self._owns_client = isinstance(store, str)
        self.client = with_url(store, settings.timeout) if isinstance(store, str) else store
        self.prefix = f"{{{settings.namespace}}}"
        self.durability: Durability = "none"
        self._name = f"Redis namespace {settings.namespace}"
        self.scripts = Scripts(self.client, self.prefix)
        self._closed = False
        self._asking = 0  # How many wait for the server just now.
        self._idle = asyncio.Event()

    async def open(self) -> str:
        """Check the server and the namespace, and return the id of the store."""
        settings, wait_aof = self.settings, self.settings.wait_aof
        found = await self._retried(lambda: read_settings(self.client, self.prefix))
        self.durability = durability_of(found, wait_aof, self.client)
        if DURABILITIES.index(self.durability) < DURABILITIES.index(settings.required):
            raise StoreUnavailableError(
                f"this Redis server promises durability {self.durability!r}, and "
                f"{settings.required!r} is required; see appendonly and appendfsync"
            )
        version, store_id = await self.run("open", VERSION, f"redis-{uuid.uuid4()}")
        await self._check_version(version)
        if store_id is None:
            raise StoreCorruptError(f"{self._name}: the key meta is damaged")
        return str(store_id.decode(errors="replace"))

    async def _check_version(self, version: bytes | None) -> None:
        if version is None or not version.isdigit():
            raise StoreCorruptError(f"{self._name}: the key meta is damaged")
        if int(version) > VERSION:
            raise StoreVersionError(
                f"{self._name}: version {int(version)} is newer than {VERSION}, the highest that "
                "this library knows; upgrade flowstate"
            )
        if int(version) < VERSION:
            while await self.run("upgrade", UPGRADED_AT_A_TIME):
                pass

    async def close(self) -> None:
        """Close the connections, also those that other tasks are about to open."""
        self._closed = True
        if not self._owns_client:
            return
        await self.client.aclose()
        while self._asking:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_PAUSE):
                    await self._idle.wait()
            await self.client.aclose()

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask the server inside: for a bounded time, and not after the store was closed.

        Raises:
            RedisError: of the client.
            Failed: the store was closed.
        """
        if self._closed:
            raise self._is_closed()
        self._asking += 1
        self._idle.clear()
        try:
            with preserve_cancellation():
                async with asyncio.timeout(PATIENCE * self.settings.timeout):
                    yield
        except (AttributeError, TypeError) as error:
            # What redis-py runs into when a connection is closed while it is used.
            if not self._closed:
                raise
            raise RedisConnectionError("closed while it was asked") from error
        except UnicodeError as error:
            raise RedisConnectionError("no such host") from error
        except TimeoutError as error:
            raise RedisTimeoutError("the server does not answer") from error
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()

    def _is_closed(self) -> Failed:
        return Failed(DriverClosedError(f"{self._name} is not open"), common=True)

    def backoff(self) -> Backoff:
        """Return pauses for as long as an operation may take."""
        return Backoff(self.settings.clock, self.settings.timeout)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Run a script that may run more than once.

        Raises:
            DriverError: it does not work.
        """
        return await self._retried(lambda: self.scripts.run(script, *arguments))

    async def _retried(self, action: Callable[[], Awaitable[T]]) -> T:
        backoff = self.backoff()
        try:
            return await self.attempt(action)
        except Failed as first:
            return await retried(lambda: self.attempt(action), first, backoff)

    async def attempt(self, action: Callable[[], Awaitable[T]]) -> T:
        """Ask the server once.

        Raises:
            Failed: it did not work.
        """
        try:
            async with self.asking():
                return await action()
        except RedisError as error:
            if self._closed:
                raise self._is_closed_after(error) from error
            raise failed(error, self.settings.namespace) from error

    def _is_closed_after(self, error: RedisError) -> Failed:
        lost = failed(error, self.settings.namespace).lost
        return Failed(self._is_closed().error, lost=lost, common=True)
