"""Every order in which processes can come to a store, tried one by one.

A *process* is a coroutine with an engine of its own. It stops before each read of a state and each
commit. When all stand still, the explorer lets one of them go on, or lets it die there: before
what it is about to do, or after that and before it hears of it. Runs are repeated until every
choice was made in every place. Where that is too much, a run may interrupt processes only so many
times; most races need one or two interruptions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import pytest
from msgspec import Struct

from flowstate import DriverError, Engine, FlowRegistry, State, runtime
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper
from flowstate.turns import Turns

__all__ = ["Check", "Explored", "Run", "explore"]

T = TypeVar("T")
Deed = Literal["goes on", "dies before", "dies after"]
Check = Callable[[], Awaitable[None]]
MAX_CHOICES = 100  # Of one run; with more it goes round.


class Choice(Struct, frozen=True):
    """What the explorer lets happen, to whom, and where that one stood."""

    who: str
    deed: Deed
    where: str

    def __str__(self) -> str:
        return f"{self.who} {self.deed}: {self.where}"


class Explored(Struct):
    """How many runs there were, and in how many of them somebody died."""

    runs: int = 0
    deadly: int = 0


class NoTime:
    """A clock that stands still, and on which a sleep takes no time."""

    longest_sleep = 1.0

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float, *, background: bool = False) -> None:  # noqa: ARG002
        await asyncio.sleep(0)  # reason: no time passes

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()


class Gated(DriverWrapper):
    """Stops before what the explorer decides about."""

    def __init__(self, run: "Run", name: str) -> None:
        super().__init__(run.store)
        self._run = run
        self._name = name

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        deed = await self._run.stop(self._name, f"reads {id}")
        found = await super().get_state(id, rev)
        await self._run.after(deed)
        return found

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        ids = [put.id for writes in batch for put in writes.puts]
        deed = await self._run.stop(self._name, f"commits {' and '.join(ids)}")
        verdicts = await super().commit(batch)
        await self._run.after(deed)
        return verdicts


class Run:
    """One run of some processes on a store of their own.

    Attributes:
        store: of all of them.
        choices: what happened.
        options: how many choices there were each time.
        dead: who has died.
    """

    def __init__(self, script: Sequence[int], deaths: int, interruptions: int) -> None:
        self.store = MemoryDriver(NoTime())
        self.choices: list[Choice] = []
        self.options: list[int] = []
        self.dead: set[str] = set()
        self._script = script
        self._deaths = deaths
        self._interruptions = interruptions
        self._standing: dict[str, tuple[str, asyncio.Future[Deed]]] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._moving = 0
        self._still = asyncio.Event()
        self._is_over = False

    def engine(self, name: str, *flows: str) -> Engine:
        """Return the engine of a process; it knows some flows, and can run none."""
        registry = FlowRegistry()
        for flow in flows:
            registry.declare(flow)
        return Engine(Gated(self, name), registry, clock=NoTime())

    def start(self, name: str, work: Awaitable[None]) -> None:
        """Add a process; its engine has the same name."""
        self._moving += 1
        self._tasks[name] = task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._stands())

    async def stop(self, name: str, where: str) -> Deed:
        """Let a process wait for what happens to it."""
        if self._is_over:
            raise DriverError("the run is over")
        if name not in self._tasks:
            return "goes on"  # It prepares the run, or looks at what has come of it.
        told: asyncio.Future[Deed] = asyncio.get_running_loop().create_future()
        self._standing[name] = where, told
        self._stands()
        return await told

    async def after(self, deed: Deed) -> None:
        """Let a process that dies now do nothing any more."""
        if deed == "dies after":
            self._stands()
            await asyncio.Event().wait()

    def _stands(self) -> None:
        self._moving -= 1
        if not self._moving:
            self._still.set()

    async def play(self) -> None:
        """Let one go on, again and again, until all have ended or are dead."""
        while True:
            await self._still.wait()
            options = list(self._options())
            if not options:
                break
            self._do(options)
        for name, task in self._tasks.items():
            if name not in self.dead:
                task.result()

    def _options(self) -> Iterator[Choice]:
        last = self.choices[-1].who if self.choices else ""
        names = sorted(self._standing, key=lambda name: (name != last, name))
        if last in self._standing and not self._interruptions:
            names = [last]
        for name in names:
            yield Choice(name, "goes on", self._standing[name][0])
        for name in names if len(self.dead) < self._deaths else ():
            where = self._standing[name][0]
            yield Choice(name, "dies before", where)
            if where.startswith("commits"):  # After a read it is the same as before it.
                yield Choice(name, "dies after", where)

    def _do(self, options: Sequence[Choice]) -> None:
        place = len(self.choices)
        assert place < MAX_CHOICES, "it goes round"
        chosen = options[self._script[place] if place < len(self._script) else 0]
        if self.choices and self.choices[-1].who in set(self._standing) - {chosen.who}:
            self._interruptions -= 1
        self.choices.append(chosen)
        self.options.append(len(options))
        _, told = self._standing.pop(chosen.who)
        if chosen.deed != "goes on":
            self.dead.add(chosen.who)
        if chosen.deed != "dies before":
            self._still.clear()
            self._moving += 1
            told.set_result(chosen.deed)

    async def bury(self) -> None:
        """End what is left of the dead."""
        self._is_over = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def explore(
    prepare: Callable[[Run], Awaitable[Check]],
    *,
    deaths: int = 0,
    interruptions: int = MAX_CHOICES,
) -> Explored:
    """Try every order, with every place in which so many processes can die.

    Args:
        prepare: fills the store, starts the processes, and returns what looks at the end.
        deaths: how many may die in one run.
        interruptions: how many times one process may go on where another one could.
    """
    explored, script = Explored(), list[int]()
    with pytest.MonkeyPatch.context() as patching:
        # Those of a process of its own.
        patching.setattr(runtime, "turns_of", lambda _: Turns())
        while True:
            run = Run(script, deaths, interruptions)
            check = await prepare(run)
            try:
                await run.play()
                await check()
            except BaseException as error:
                error.add_note("\n".join(map(str, run.choices)))
                raise
            finally:
                await run.bury()
            explored.runs += 1
            explored.deadly += bool(run.dead)
            made = [*script, *[0] * (len(run.options) - len(script))]
            while made and made[-1] + 1 == run.options[len(made) - 1]:
                made.pop()
            if not made:
                return explored
            script = [*made[:-1], made[-1] + 1]
