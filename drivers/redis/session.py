"""What a driver has from its opening to its closing: a client, and what it found."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from operator import ge
from typing import Any, TypeVar

from msgspec import msgpack
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from flowstate.backoff import Backoff
from flowstate.cancellation import losing_no_cancellation
from flowstate.clock import Clock
from flowstate.driver import Durability, Verdict, Writes
from flowstate.drivers.redis import batch
from flowstate.drivers.redis.errors import concerns_all, is_passing, translation, was_sent
from flowstate.drivers.redis.reader import UNREADABLE, state_of
from flowstate.drivers.redis.scripts import Scripts
from flowstate.errors import (
    CommitUnknownError,
    DriverClosedError,
    DriverError,
    RevisionMismatchError,
    StoreCorruptError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = ["Client", "Session"]

T = TypeVar("T")
Client = Redis | RedisCluster
VERSION = 1
STEPS = 500
WAITAOF_SINCE = (7, 2)
CLOSING_PAUSE = 0.05


class Session:
    """One opening of a store. Every opening gets a new one, for the event loop it is opened in.

    Attributes:
        client: to the server.
        prefix: of all keys.
    """

    def __init__(
        self,
        store: "str | Client",
        namespace: str,
        *,
        timeout: float,
        wait_aof: tuple[int, int] | None,
        clock: Clock,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._namespace = namespace
        self._timeout = timeout
        self._wait_aof = wait_aof
        self._clock = clock
        self._owns_client = isinstance(store, str)
        self.client = _client(store, timeout) if isinstance(store, str) else store
        self.prefix = f"{{{namespace}}}"
        self._scripts = Scripts(self.client, self.prefix)
        self._closed = False
        self._asking = 0  # How many wait for the server just now.
        self._idle = asyncio.Event()

    async def open(self) -> tuple[str, Durability]:
        """Check the server and the namespace; return the store's id, and what a commit survives."""
        settings = await self.retried(self._settings)
        durability = _durability(settings)
        if self._wait_aof is not None:
            durability = self._durability_of_waiting(settings, durability)
        version, store_id = await self.run("open", VERSION, f"redis-{uuid.uuid4()}")
        if version is None or store_id is None:
            raise StoreCorruptError(f"Redis namespace {self._namespace}: the key meta is damaged")
        if int(version) > VERSION:
            raise StoreVersionError(
                f"Redis namespace {self._namespace}: version {int(version)} is newer than "
                f"{VERSION}, the highest that this library knows; upgrade flowstate"
            )
        return store_id.decode(), durability

    def _durability_of_waiting(
        self, settings: dict[str, Any], durability: Durability
    ) -> Durability:
        version = str(settings.get("redis_version", "0"))
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < WAITAOF_SINCE:
            raise StoreUnavailableError(f"wait_aof needs Redis 7.2; this server is {version}")
        if isinstance(self.client, RedisCluster):
            raise StoreUnavailableError("wait_aof does not work with the client of a cluster")
        local = self._wait_aof is not None and self._wait_aof[0] > 0
        if local and durability == "none":
            raise StoreUnavailableError("wait_aof needs a server with appendonly yes")
        if local and settings.get("appendfsync") == "no":
            raise StoreUnavailableError("wait_aof would wait in vain: appendfsync is no")
        return "power" if local else durability

    async def _settings(self) -> dict[str, Any]:
        """Return what the server says of itself; of a cluster, the one that has the namespace."""
        options: dict[str, Any] = {}
        if isinstance(self.client, RedisCluster):
            await self.client.initialize()
            options["target_nodes"] = self.client.get_node_from_key(self.prefix)
        found: dict[str, Any] = dict(_of_one(await self.client.info(**options)))
        with contextlib.suppress(RedisError):  # Managed servers do not let everybody ask.
            for name in ("appendfsync", "maxmemory-policy"):
                reply = _of_one(await self.client.config_get(name, **options))
                found |= {_text(key): _text(value) for key, value in reply.items()}
        return found

    def check_loop(self) -> None:
        """Raise, unless this is the event loop that the store was opened in."""
        if asyncio.get_running_loop() is not self._loop:
            raise DriverError("a Redis driver belongs to the event loop that opened it")

    async def close(self) -> None:
        """Close what was opened, all of it even when this is cancelled."""
        self._closed = True
        if not self._owns_client:
            return
        closing = asyncio.create_task(self._disconnect(), name="flowstate redis close")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def _disconnect(self) -> None:
        """Close the connections, also those that others are about to open."""
        await self.client.aclose()
        while self._asking:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_PAUSE):
                    await self._idle.wait()
            await self.client.aclose()

    @contextlib.contextmanager
    def _ask(self) -> Iterator[None]:
        """Let nothing be asked of a server that has been left."""
        if self._closed:
            raise DriverClosedError(f"Redis namespace {self._namespace} was closed")
        self._asking += 1
        self._idle.clear()
        try:
            with losing_no_cancellation():
                yield
        except (AttributeError, TypeError) as error:
            # What redis-py runs into when a connection is closed under its hands.
            if not self._closed:
                raise
            raise RedisConnectionError("closed while it was asked") from error
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()

    def backoff(self) -> Backoff:
        """Return pauses for as long as an operation may take."""
        return Backoff(self._clock, self._timeout)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Run a script that may run more than once."""
        return await self.retried(lambda: self._scripts.run(script, *arguments))

    async def retried(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done more than once, until it works or time is up.

        Raises:
            DriverError: it does not work.
        """
        backoff = self.backoff()
        while True:
            try:
                with self._ask():
                    return await action()
            except RedisError as error:
                if not is_passing(error) or not await backoff.pause():
                    raise translation(error, self._namespace) from error

    async def commit(self, commits: Sequence[Writes]) -> list[Verdict]:
        """Return a verdict for each commit.

        One that makes the whole batch fail, by being too large say, must not take the others
        with it.
        """
        try:
            return await self._commit(commits)
        except DriverError as error:
            if len(commits) == 1 or concerns_all(error.__cause__):
                return [error] * len(commits)
        return [(await self.commit([writes]))[0] for writes in commits]

    async def _commit(self, commits: Sequence[Writes]) -> list[Verdict]:
        encoded = batch.encode(commits)
        backoff = self.backoff()
        perhaps_written = False
        while True:
            try:
                with self._ask():
                    answer, is_safe = await self._run_commit(encoded)
            except DriverClosedError:
                if not perhaps_written:
                    raise
                break
            except RedisError as error:
                failure = error
                perhaps_written = perhaps_written or was_sent(error)
            else:
                found = batch.verdicts(commits, answer)
                told = await self._with_replays(commits, list(found), perhaps_written)
                if self._wait_aof is None:
                    return told
                return _doubted(commits, found, told, is_safe)
            again = perhaps_written or is_passing(failure)
            if not again or not await backoff.pause():
                break
        if perhaps_written:
            return [CommitUnknownError(writes.token) for writes in commits]
        raise translation(failure, self._namespace) from failure

    async def _run_commit(self, encoded: list[bytes]) -> tuple[Any, bool]:
        """Return the script's answer, and whether as many have it on disk as shall."""
        wanted = self._wait_aof
        if wanted is None:
            return await self._scripts.run("commit", *encoded), True
        # Half of the time, lest the client gives up before the server does.
        answer, counts = await self._scripts.run_and_wait(
            "commit", encoded, (*wanted, round(500 * self._timeout))
        )
        return answer, all(map(ge, counts, wanted))

    async def _with_replays(
        self, commits: Sequence[Writes], verdicts: list[Verdict], perhaps_written: bool
    ) -> list[Verdict]:
        """Give commits that were refused, because they had been committed, their old verdicts."""
        if perhaps_written:
            for index, writes in enumerate(commits):
                if isinstance(verdicts[index], RevisionMismatchError) and not writes.puts:
                    # Its delays may have been stored, and have fired since.
                    verdicts[index] = CommitUnknownError(writes.token)
        refused = [
            index
            for index, verdict in enumerate(verdicts)
            if isinstance(verdict, RevisionMismatchError) and commits[index].puts
        ]
        if not refused:
            return verdicts
        try:
            found = await self._find([commits[index] for index in refused], perhaps_written)
        except DriverError:
            found = [CommitUnknownError(commits[index].token) for index in refused]
        for index, verdict in zip(refused, found, strict=True):
            verdicts[index] = verdict or verdicts[index]
        return verdicts

    async def _find(self, commits: Sequence[Writes], perhaps_written: bool) -> list[Verdict | None]:
        """Return the revisions of each commit, if it was committed."""
        found: list[Verdict | None] = [None] * len(commits)
        puts = [writes.puts[0] for writes in commits]
        open_ = {index: (put.id, put.rev, False) for index, put in enumerate(puts)}
        while open_:
            asked = msgpack.encode(list(open_.values()))
            answers = msgpack.decode(await self.run("successor", asked, STEPS))
            for index, answer in zip(list(open_), answers, strict=True):
                id, expected, _ = open_.pop(index)
                match answer:
                    case [rev, token] if token == commits[index].token:
                        found[index] = await self._replay(rev, commits[index])
                    case [False]:
                        if perhaps_written:  # Its traces may have been compacted since.
                            found[index] = CommitUnknownError(commits[index].token)
                    case [rev]:
                        open_[index] = (id, expected, rev)
        return found

    async def _replay(self, first: int, writes: Writes) -> Verdict:
        count = len(writes.puts)
        answer = await self.run("replay", first, count, writes.token)
        try:
            found = tuple([state_of(each) for each in msgpack.decode(answer)])
        except UNREADABLE:  # Other commits of the batch may have been written.
            return CommitUnknownError(writes.token)
        # Some may have been compacted.
        return found if len(found) == count else CommitUnknownError(writes.token)


def _doubted(
    commits: Sequence[Writes], found: list[Verdict], told: list[Verdict], is_safe: bool
) -> list[Verdict]:
    """Return the verdicts, but acknowledge nothing that may be on too few disks.

    What an earlier attempt wrote came by another connection, whose disks nobody has waited for.
    """
    return [
        CommitUnknownError(writes.token)
        if isinstance(second, tuple) and not (is_safe and isinstance(first, tuple))
        else second
        for writes, first, second in zip(commits, found, told, strict=True)
    ]


def _client(url: str, timeout: float) -> "Client":
    # What was lost is tried again here, where it is known what may be.
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        client_name="flowstate",
    )


def _durability(settings: dict[str, Any]) -> Durability:
    """Return what an acknowledged commit survives.

    Raises:
        StoreUnavailableError: this server will not do.
    """
    if settings.get("role") not in (None, "master"):
        raise StoreUnavailableError("this Redis server is a replica; connect to its primary")
    policy = _text(settings.get("maxmemory_policy") or settings.get("maxmemory-policy") or "")
    if policy.startswith("allkeys-"):
        raise StoreUnavailableError(
            f"this Redis server may drop keys: maxmemory-policy is {policy}, not noeviction"
        )
    if not int(settings.get("aof_enabled", 0)):
        return "none"
    return "power" if settings.get("appendfsync") == "always" else "process"


def _of_one(reply: dict[Any, Any]) -> dict[Any, Any]:
    """Return the only server's reply, which a cluster's client puts under its name."""
    (first, *others) = reply.values() or (None,)
    return first if isinstance(first, dict) and not others else reply


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
