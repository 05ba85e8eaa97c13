"""Plays flows in a world of their own, with as many processes as it takes."""

import asyncio
import copy
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar, cast

from msgspec import Struct

from flowstate.clock import FakeClock
from flowstate.delayer import Delayer
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError
from flowstate.registry import FlowRegistry
from flowstate.testing.crashes.outcome import Outcome, read_outcome
from flowstate.testing.crashes.process import Fault, Process, Script
from flowstate.testing.crashes.settling import RestlessError, Until, settle

__all__ = ["Played", "Stage"]

W = TypeVar("W")
Run = Callable[[Engine, W], Awaitable[object]]

START = datetime(2030, 1, 1, tzinfo=UTC)
NEVER = 1e6  # The loop of a process that is dead does not turn.


class Played(Struct, Generic[W], frozen=True):
    """A run that has come to its end.

    Attributes:
        faults: what went wrong, by the number of the point.
        points: at which its processes wrote, in words.
        deaths: the head of the store at each.
        outcome: what is left.
        outside: a copy of what counts of the outside world.
        wrong: with the run itself, and which invariants do not hold, a text each.
        note: what explains what came out.
    """

    faults: dict[int, Fault]
    points: list[str]
    deaths: list[int]
    outcome: Outcome[W]
    outside: object
    wrong: list[str]
    note: str


class Stage(Generic[W]):
    """Plays one run after the other, each in a new world.

    Args:
        make_world: see :func:`flowstate.testing.explore_crashes`, also for the rest.
        make_flows: as there.
        run: as there.
        outside: as there.
        invariants: as there.
        until: as there.
        longest: as there.
        seed: as there.
    """

    def __init__(
        self,
        *,
        make_world: Callable[[], W],
        make_flows: Callable[[W], FlowRegistry],
        run: Run[W],
        outside: Callable[[W], object],
        invariants: Sequence[Callable[[Outcome[W]], object]],
        until: Until | None,
        longest: timedelta,
        seed: int,
    ) -> None:
        self._make_world = make_world
        self._make_flows = make_flows
        self._run = run
        self._outside = outside
        self._invariants = invariants
        self._until = until
        self._longest = longest
        self._seed = seed

    def play(self, faults: dict[int, Fault]) -> Played[W]:
        """Run to the end.

        Raises whatever ``run`` raises, as long as nothing has gone wrong.
        """
        random.seed(self._seed)
        world = self._make_world()
        script = Script(faults)
        time = StoreTime()
        store = MemoryDriver(time)
        request = Request(self._run, world)
        processes: list[Process] = []
        deaths: list[int] = []
        outcome: Outcome[W] | None = None
        try:
            while outcome is None:
                process = Process(store, script, time.now())
                processes.append(process)
                time.follow(process.clock)
                outcome = process.run(self._live(process, len(processes), request, deaths))
            # All of it before the burial, in which ``finally`` runs at last.
            outside = copy.deepcopy(self._outside(world))
            wrong = [request.failure] if request.failure else []
            wrong += self._broken_invariants(outcome)
        finally:
            for process in processes:
                process.bury()
        return Played(faults, script.points, deaths, outcome, outside, wrong, request.note)

    def _broken_invariants(self, outcome: Outcome[W]) -> Iterator[str]:
        for invariant in self._invariants:
            try:
                invariant(outcome)
            except Exception as error:  # noqa: BLE001 - whatever it is, it does not hold
                name = getattr(invariant, "__name__", repr(invariant))
                text = str(error) or type(error).__name__
                if not isinstance(error, AssertionError):
                    text = f"{type(error).__name__}: {text}"
                yield f"invariant {name}: {text}"

    async def _live(
        self, process: Process, number: int, request: "Request[W]", deaths: list[int]
    ) -> Outcome[W]:
        """Be a process from its start to its end."""
        name = f"process-{number}"
        tokens = map(f"{name}-{{}}".format, itertools.count(1))
        engine = Engine(
            cast(Driver, process.driver),
            self._make_flows(request.world),
            clock=process.clock,
            shutdown_timeout=0.0,
            tokens=lambda: next(tokens),
            name=name,
            rng=random.Random(f"{self._seed} {name}"),  # noqa: S311 - no secret
            warn_blocked_after=NEVER,
        )
        rng = random.Random(f"{self._seed} {number}")  # noqa: S311 - no secret
        async with engine:
            if number > 1:
                deaths.append(await engine.head())
            async with Delayer(engine, rng=rng):
                running = asyncio.create_task(request.send(engine))
                try:
                    await settle(engine, running, self._until, self._longest, rng)
                except RestlessError as error:
                    request.failure = str(error)
                    running.cancel()
                return await read_outcome(engine.driver, request.world)


class Request(Generic[W]):
    """What ``run`` does: sent once more by each process, until it has returned.

    Attributes:
        world: of the run.
        failure: what went wrong with it.
        note: how it ended when it was repeated.
    """

    def __init__(self, run: Run[W], world: W) -> None:
        self._run = run
        self._times = 0
        self._is_answered = False
        self.world = world
        self.failure = ""
        self.note = ""

    async def send(self, engine: Engine) -> None:
        """Do it, unless an earlier process has heard that it is done."""
        if self._is_answered:
            return
        self._times += 1
        try:
            await self._run(engine, self.world)
        except RevisionMismatchError as error:
            if self._times == 1:
                raise
            self.note = f"run() was called again after the crash, and ended with: {error}"
        except Exception as error:
            if self._times == 1:
                raise
            self.failure = f"run() failed when it was called again: {type(error).__name__}: {error}"
        self._is_answered = True


class StoreTime:
    """Tells the store the time of the process that lives."""

    def __init__(self) -> None:
        self._clock = FakeClock(START)

    def follow(self, clock: FakeClock) -> None:
        """Tell the time of another clock from now on."""
        self._clock = clock

    def now(self) -> datetime:
        """Return the time of day."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Return seconds that never go back while one process lives."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float, *, background: bool = False) -> None:
        """Wait so many seconds."""
        await self._clock.sleep(seconds, background=background)

    def working(self) -> AbstractContextManager[None]:
        """Hold while work goes on that the event loop does not see."""
        return self._clock.working()
