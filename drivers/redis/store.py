"""A store from its opening to its closing: a client, and how the server is asked."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from flowstate.driver import Durability
from flowstate.drivers.kit.resolving import Backoff, Failed, retried
from flowstate.drivers.redis.errors import failed
from flowstate.drivers.redis.options import Client, Options
from flowstate.drivers.redis.scripts import Scripts
from flowstate.drivers.redis.settings import durability_of, read_settings, with_url
from flowstate.errors import DriverClosedError, StoreCorruptError, StoreVersionError
from flowstate.ground.tasks import preserve_cancellation

__all__ = ["OpenStore"]

T = TypeVar("T")
VERSION = 3
UPGRADED_AT_A_TIME = 50
CLOSING_PAUSE = 0.05
PATIENCE = 1.2  # Times the timeout: the client's own error says more than ours.


class OpenStore:
    """One opening of a store. Every opening has a new one, for the event loop it is opened in.

    Attributes:
        options: of the driver.
        client: to the server.
        name: of the store, for errors.
        prefix: of all keys.
        scripts: what the server can be asked to do.
        durability: what an acknowledged commit survives; known once it is open.
    """

    def __init__(self, options: Options) -> None:
        store = options.store
        self.options = options
        self.client: Client = with_url(store, options.timeout) if isinstance(store, str) else store
        self.prefix = f"{{{options.namespace}}}"
        self.durability: Durability = "none"
        self.scripts = Scripts(self.client, self.prefix)
        self.name = f"Redis namespace {options.namespace}"
        self._store_id = ""
        self._closed = False
        self._asking = 0  # How many wait for the server just now.
        self._idle = asyncio.Event()

    async def open(self) -> str:
        """Check the server and the namespace, unless it is open; return the id of the store."""
        if not self._store_id:
            found = await self._retried(lambda: read_settings(self.client, self.prefix))
            self.durability = durability_of(found, self.options, self.client)
            version, store_id = await self.run("open", VERSION, f"redis-{uuid.uuid4()}")
            if version is None or not version.isdigit() or store_id is None:
                raise StoreCorruptError(f"{self.name}: the key meta is damaged")
            await self._upgrade(int(version))
            self._store_id = str(store_id.decode(errors="replace"))
        return self._store_id

    async def _upgrade(self, version: int) -> None:
        if version > VERSION:
            raise StoreVersionError(
                f"{self.name}: version {version} is newer than {VERSION}, the highest that "
                "this library knows; upgrade flowstate"
            )
        for old in range(version, VERSION):
            while await self.run(f"upgrade_{old}", UPGRADED_AT_A_TIME):
                pass

    async def close(self) -> None:
        """Close the connections, also those that other tasks are about to open."""
        self._closed = True
        if not isinstance(self.options.store, str):
            return
        await self.client.aclose()
        while self._asking:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_PAUSE):
                    await self._idle.wait()
            await self.client.aclose()

    def _is_closed(self, *, lost: bool = False) -> Failed:
        return Failed(DriverClosedError(f"{self.name} is not open"), lost=lost, common=True)

    def backoff(self) -> Backoff:
        """Return pauses for as long as an operation may take."""
        return Backoff(self.options.clock, self.options.timeout)

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
        """Ask the server once: for a bounded time, and not after the store was closed.

        Raises:
            Failed: it did not work.
        """
        if self._closed:
            raise self._is_closed()
        self._asking += 1
        self._idle.clear()
        try:
            with preserve_cancellation():
                async with asyncio.timeout(PATIENCE * self.options.timeout):
                    return await action()
        except (AttributeError, TypeError) as error:
            # What redis-py runs into when a connection is closed while it is used.
            if not self._closed:
                raise
            raise self._is_closed(lost=True) from error
        except (RedisError, UnicodeError, TimeoutError) as error:
            found = failed(error, self.name)
            raise (self._is_closed(lost=found.lost) if self._closed else found) from error
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()
