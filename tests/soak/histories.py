"""Histories of several processes on a real server, while everything about them breaks.

The processes reach the server through a proxy. It cuts connections, before and after replies,
stalls them and slows them down; the processes have wrong clocks, are stopped, and killed and
replaced; the server is killed and started again. In the end the checker compares what every
process did and was told with the log.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, Self

from flowstate.driver import Driver
from flowstate.testing.faults import Proxy, Worker
from flowstate.testing.histories.checker import check
from flowstate.testing.histories.files import read_records
from flowstate.testing.histories.history import Attempt, History
from flowstate.testing.histories.recorder import TOKEN, read_store
from tests.recovery.stores import driver_on
from tests.soak.client import BEGUN
from tests.soak.stage import Outcome
from tests.support import through_proxy

__all__ = ["Server", "check_round"]

ROOT = Path(__file__).parents[2]
PROCESSES = 4
TIME_LIMIT = 120.0
PAUSES = 0.2, 0.8  # Seconds between two faults.
STOPPED_FOR = 0.3, 3.0
DELAYS = 0.005, 0.1
MOST_BYTES = 4_000
CUT_WITHIN = 5.0
MOST_SHOWN = 5


class Server(Protocol):
    """A real server that can be killed."""

    def url(self) -> str:
        """Return how to reach it."""

    def kill(self) -> None:
        """End it as a crash does."""

    def start(self) -> None:
        """Start it again."""


class Clients:
    """The processes of a round.

    Args:
        url: of the server, through the proxy.
        schema: in it.
        folder: for their records, and what they write to stderr.
        rng: of all chance.
    """

    def __init__(self, url: str, schema: str, folder: Path, rng: random.Random) -> None:
        self._url = url
        self._schema = schema
        self._folder = folder
        self._rng = rng
        self._started = contextlib.AsyncExitStack()
        self._running: list[Worker] = []
        self.paths: list[Path] = []

    async def start(self) -> None:
        """Start one more."""
        path = self._folder / f"{self._schema}-{len(self.paths)}"
        self.paths.append(path)
        worker = Worker(
            *("-m", "tests.soak.client", self._url, self._schema, path, self._rng.getrandbits(32)),
            folder=ROOT,
            log=path.with_suffix(".log"),
            timeout=TIME_LIMIT,
        )
        await self._started.enter_async_context(worker)
        await worker.said(BEGUN)
        self._running.append(worker)

    async def replace_one(self) -> None:
        """Kill one, and start another in its place."""
        victim = self._running.pop(self._rng.randrange(len(self._running)))
        victim.kill()
        await victim.ended()
        await self.start()

    async def stop_one(self) -> None:
        """Let one stand still for a while."""
        victim = self._rng.choice(self._running)
        victim.stop()
        try:
            await asyncio.sleep(self._rng.uniform(*STOPPED_FOR))
        finally:
            victim.go_on()

    async def finish(self) -> None:
        """Let all of them end in order."""
        await asyncio.gather(*(worker.finish() for worker in self._running))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._started.aclose()


class Nemesis:
    """Lets one thing after the other go wrong, and counts what did."""

    def __init__(self, server: Server, proxy: Proxy, clients: Clients, rng: random.Random) -> None:
        self._server = server
        self._proxy = proxy
        self._rng = rng
        self.counts: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
            "connections cut": (4, self._cut),
            "requests cut": (4, self._cut_request),
            "replies cut": (4, self._cut_reply),
            "connections cut after replies": (2, self._cut_after_reply),
            "network stalled": (2, self._stall),
            "network slowed": (1, self._slow),
            "processes killed": (2, clients.replace_one),
            "processes stopped": (3, clients.stop_one),
            "servers killed": (1, self._kill_server),
        }

    async def strike(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        names = list(self._faults)
        weights = [weight for weight, _ in self._faults.values()]
        while time.monotonic() < end:
            await asyncio.sleep(self._rng.uniform(*PAUSES))
            (name,) = self._rng.choices(names, weights)
            self.counts[name] += 1
            await self._faults[name][1]()

    async def _cut(self) -> None:
        self._proxy.cut()

    async def _cut_request(self) -> None:
        await self._happened(self._proxy.cut_after(self._rng.randint(1, MOST_BYTES)))

    async def _cut_reply(self) -> None:
        marker = self._rng.choice((b"", TOKEN.encode()))
        await self._happened(self._proxy.cut_before_reply(marker))

    async def _cut_after_reply(self) -> None:
        await self._happened(self._proxy.cut_after_reply(TOKEN.encode()))

    async def _stall(self) -> None:
        directions = self._rng.choice(((True, True), (True, False), (False, True)))
        self._proxy.stall(requests=directions[0], replies=directions[1])
        try:
            await asyncio.sleep(self._rng.uniform(*STOPPED_FOR))
        finally:
            self._proxy.go_on()

    async def _slow(self) -> None:
        self._proxy.delay = self._rng.uniform(*DELAYS)
        try:
            await asyncio.sleep(self._rng.uniform(*STOPPED_FOR))
        finally:
            self._proxy.delay = 0.0

    async def _happened(self, event: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_WITHIN):
                await event.wait()

    async def _kill_server(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)


async def check_round(
    server: Server, schema: str, folder: Path, *, seed: int, seconds: float
) -> Outcome:
    """Let processes work for so many seconds while everything breaks, and check their history.

    Args:
        server: that loses nothing when it is killed.
        schema: a new one.
        folder: for the records; those of a history with violations are kept there.
        seed: of all chance but that of the machine.
        seconds: how long.
    """
    rng = random.Random(seed)
    async with (
        _opened(server.url(), schema) as driver,
        through_proxy(server.url()) as (proxy, url),
        Clients(url, schema, folder, rng) as clients,
    ):
        for _ in range(PROCESSES):
            await clients.start()
        nemesis = Nemesis(server, proxy, clients, rng)
        await nemesis.strike(seconds)
        await clients.finish()
        records, torn = read_records(clients.paths)
        records += await read_store(driver, records)
    history = History(records, torn=torn)
    outcome = Outcome(_operations(history), figures=nemesis.counts + _endings(history.attempts))
    violations = [str(each) for each in check(history)]
    if violations:
        shown = "\n".join(violations[:MOST_SHOWN])
        outcome.failures.append(f"{len(violations)} violations in {folder}/{schema}-*:\n{shown}")
    else:
        for path in clients.paths:
            path.unlink()
    return outcome


@contextlib.asynccontextmanager
async def _opened(url: str, schema: str) -> AsyncIterator[Driver]:
    async with driver_on(url, schema) as driver:
        yield driver


def _operations(history: History) -> int:
    watched = sum(len(session.delivered) for session in history.sessions)
    return len(history.attempts) + len(history.reads) + len(history.pages) + watched


def _endings(attempts: list[Attempt]) -> Counter[str]:
    """Count how commits ended."""
    names = {"NoneType": "commits of the killed"}
    kinds = (type(attempt.outcome).__name__ for attempt in attempts)
    return Counter(names.get(kind, f"commits {kind.lower()}") for kind in kinds)
