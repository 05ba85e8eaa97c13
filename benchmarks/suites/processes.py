"""Several processes on one store: how fast they commit, and how soon another one hears of it."""

import asyncio
from collections.abc import Iterable
from functools import partial
from time import monotonic_ns, perf_counter

from msgspec import Struct

from benchmarks.flows import registry
from benchmarks.setting import Setting
from benchmarks.stopwatch import latency
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.stores.store import StoreName
from benchmarks.suites.workers import BEGAN, Worker
from benchmarks.workload import Measure, Sample, Side, Workload
from flowstate import Engine

__all__ = ["workloads"]

PLACE = "processes"
TASKS = 64  # Of all processes together.
MORE = 8  # Times as many commits as by one task.
COUNTS = (2, 4)
MARKS = {("postgres", 4): 1.0}
DELIVERIES = 3  # Times as many as small operations.


class Pace(Struct, frozen=True):
    """How another process writes while it is watched.

    Attributes:
        tasks: that write in turn.
        commits: in a second.
        mark: what the median may be at most.
        worst_mark: what the 99th percentile may be at most.
        apart_mark: how far apart commits may begin on average, to see that it kept its pace.
    """

    tasks: int
    commits: int
    mark: float | None = None
    worst_mark: float | None = None
    apart_mark: float | None = None


PACES: dict[StoreName, Pace] = {
    "sqlite": Pace(1, 100),
    "postgres": Pace(50, 1_000, 0.010, 0.050, 0.00105),
    "redis": Pace(50, 1_000),
}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store that processes can share."""
    for engines in engines_of(setting):
        if engines.store.is_shared:
            yield from _commits(setting, engines)
            yield from _deliveries(setting, engines)


def _commits(setting: Setting, engines: Engines) -> Iterable[Workload]:
    count = MORE * engines.store.commits
    alone = Team(setting, engines, 1)
    for processes in COUNTS:
        team = Team(setting, engines, processes)
        side = Side(alone.name, "small", partial(alone.measure, count))
        mark = MARKS.get((engines.store.name, processes))
        yield Workload(
            f"commits, {team.name}",
            engines.store.name,
            "commit",
            partial(team.measure, count),
            (Side(side.name, side.role, side.measure, mark),),
        )


class Team:
    """Processes that stay from round to round, started when they are needed first.

    Attributes:
        name: how many they are, with how many tasks each.
    """

    def __init__(self, setting: Setting, engines: Engines, processes: int) -> None:
        self._setting = setting
        self._engines = engines
        self._count = processes
        self._workers: list[Worker] = []
        self._tasks = TASKS // processes
        plural = "es" if processes > 1 else ""
        self.name = f"{processes} process{plural} of {self._tasks} tasks"

    async def measure(self, count: int) -> Sample:
        """Have them commit so often together."""
        if not self._workers:
            await self._start()
        each = max(1, count // self._count)
        start = perf_counter()
        cpu = await asyncio.gather(*(worker.commit(each) for worker in self._workers))
        seconds, commits = perf_counter() - start, each * self._count
        return Sample(seconds / commits, sum(cpu) / commits)

    async def _start(self) -> None:
        address = self._engines.store.address(PLACE)
        async with Engine(address.driver(), registry()):
            pass  # So that they do not all make its tables at once.
        for _ in range(self._count):
            worker = await Worker.start(
                self._setting.stack, "committer", address, f"--tasks={self._tasks}"
            )
            self._workers.append(worker)
        await asyncio.gather(*(worker.commit(self._tasks) for worker in self._workers))


def _deliveries(setting: Setting, engines: Engines) -> Iterable[Workload]:
    store = engines.store.name
    pace = PACES[store]
    observed = Observed(setting, engines, max(2, DELIVERIES * setting.sizes.operations))
    yield Workload(
        "commit to watcher in another process",
        store,
        "commit",
        observed.reading("delays"),
        mark=pace.mark,
        worst_mark=pace.worst_mark,
    )
    yield Workload(
        "commit to watcher in another process, pace",
        store,
        "commit",
        observed.reading("apart"),
        mark=pace.apart_mark,
    )


class Seen(Struct, frozen=True):
    """From the calls of commits in another process to a watcher in this one.

    Attributes:
        delays: their seconds.
        apart: seconds from the start of one commit to that of the next, on average.
    """

    delays: Sample
    apart: Sample


class Observed:
    """What a watcher has seen, round by round, for each of those who want something of it."""

    def __init__(self, setting: Setting, engines: Engines, count: int) -> None:
        self._stack = setting.stack
        self._store = engines.store
        self._count = count
        self._rounds: list[Seen] = []
        self._writer: Worker | None = None
        self._engine: Engine | None = None

    def reading(self, what: str) -> Measure:
        """Return a measure of a part of it; the first that asks for a round has it done."""
        rounds = iter(range(1_000_000))

        async def measure() -> Sample:
            number = next(rounds)
            if number == len(self._rounds):
                self._rounds.append(await self._watch())
            sample: Sample = getattr(self._rounds[number], what)
            return sample

        return measure

    async def _watch(self) -> Seen:
        engine, writer = await self._opened()
        began: list[int] = []
        seconds: list[float] = []
        async with engine.watch(since_rev=await engine.head()) as states:
            writing = asyncio.create_task(writer.commit(self._count))
            async for state in states:
                # All processes of a machine share the monotonic clock.
                began.append(int(state.transition.annotations[BEGAN]))
                seconds.append((monotonic_ns() - began[-1]) / 1e9)
                if len(seconds) == self._count:
                    break
            await writing
        apart = (max(began) - min(began)) / 1e9 / (self._count - 1)
        return Seen(latency(seconds), Sample(apart))

    async def _opened(self) -> tuple[Engine, Worker]:
        if self._engine is None or self._writer is None:
            address, pace = self._store.address("observed"), PACES[self._store.name]
            engine = Engine(address.driver(), registry())
            self._engine = await self._stack.enter_async_context(engine)
            options = (f"--tasks={pace.tasks}", f"--pace={pace.commits}")
            self._writer = await Worker.start(self._stack, "writer", address, *options)
            await self._writer.commit(pace.tasks)  # It answers once it has opened the store.
        return self._engine, self._writer
