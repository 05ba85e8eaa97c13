"""Deployments and crashes in the middle of everything: no message is missed or doubled.

Processes with three versions of each code come and go on one store, as in a rolling deployment.
The second version has not the stop at which instances of the first one may stand.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from flowstate import (
    Delay,
    Delayer,
    Driver,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    RetryPolicy,
    StateContext,
    Status,
    StoreUnavailableError,
    SystemClock,
    mailbox_id,
)
from flowstate.driver import DuePage, DueQuery, Heartbeat, Verdict, Writes
from flowstate.engines.kernel.code import CodeOptions
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Run, StepOptions, Wait
from flowstate.recovery import Recoverer
from flowstate.testcases.support import DriverWrapper
from tests.engines.kernel.tables import Ask, Done, Next, Table, Then
from tests.engines.stores import STORES, driver_of

NOTES = 4
CALLS = 8  # Of one race, more or less.
UNIT = 0.02
OFTEN = RetryPolicy(attempts=30, first=2 * UNIT, factor=1.0)  # By a timer, so in any process.
SOON = CodeOptions(retry_after=timedelta(seconds=1))
VERSIONS = (  # The stops behind "wait", and where they lead.
    {"step": "wait"},
    {"check": "work", "work": "wait"},
    {"check": "work", "work": "wait", "step": "wait"},
)
AT_ONCE = 25


class Note(msgspec.Struct):
    n: int


class Stop(msgspec.Struct):
    pass


class Mortal(DriverWrapper):
    """The connection of a process to the store, until it dies."""

    is_dead = False

    def check(self) -> None:
        if self.is_dead:
            raise StoreUnavailableError("the process is dead")

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.check()
        verdicts = await super().commit(batch)
        self.check()  # The store has it, and the process never hears of that.
        return verdicts

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.check()
        return await super().beat(heartbeats)

    async def get_due(self, query: DueQuery) -> DuePage:
        self.check()
        return await super().get_due(query)


class Process:
    """What one process has open."""

    def __init__(self, store: Driver, version: int) -> None:
        self.driver, self.version = Mortal(store), version
        self._stack = contextlib.AsyncExitStack()

    async def open(self, races: Sequence["Race"]) -> "Process":
        enter = self._stack.enter_async_context
        engine = await enter(
            Engine(self.driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=0.2)
        )
        await enter(Delayer(engine))
        await enter(Recoverer(engine, lease=1.0))
        codes = [race.codes[self.version] for race in races]
        self.kernel = await enter(Kernel(engine, codes))
        return self

    async def close(self, *, crash: bool = False) -> None:
        self.driver.is_dead = crash
        await self._stack.aclose()


class Fleet:
    """The processes that are there, and how one deployment after the other reaches them."""

    def __init__(self, store: Driver, races: Sequence["Race"], *, crashes: bool) -> None:
        self.store, self.races, self.crashes = store, races, crashes
        self.live: list[Process] = []
        self.calls, self._called = 0, asyncio.Condition()

    async def open(self, version: int) -> None:
        self.live.append(await Process(self.store, version).open(self.races))

    async def close(self) -> None:
        self.crashes = not self.crashes
        await self.live.pop(0).close(crash=not self.crashes)

    async def deploy(self) -> None:
        """Replace the first version by the others, one process after the other."""
        for version, begins, ends in [(1, 0.3, 0.5), (2, 0.6, 0.8)]:
            await self._have_raced(begins)
            await self.open(version)
            await self._have_raced(ends)
            await self.close()

    async def _have_raced(self, share: float) -> None:
        """Wait for a share of all calls: both versions run meanwhile."""
        async with self._called:
            await self._called.wait_for(lambda: self.calls >= share * CALLS * len(self.races))

    async def call(self, rng: Random, call: Callable[[Process], Awaitable[Any]]) -> None:
        """Let some process do something; another one, if that has gone meanwhile."""
        while True:
            try:
                await call(rng.choice(self.live))
            except (EngineStoppedError, DriverError):
                await asyncio.sleep(UNIT)  # reason: as a client that tries again
            else:
                async with self._called:
                    self.calls += 1
                    self._called.notify_all()
                return


class Race:
    """One instance that takes notes, and all that is done to it, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng, self.id = Random(seed), f"race {seed}"
        self.seconds = self.rng.choice([0, 2, 5]) * UNIT
        self.fails = self.rng.random() < 0.6
        self.is_held = seed % AT_ONCE == 0  # It stands at "step" when the first process ends.
        self.codes = [self._code(stops) for stops in VERSIONS]

    def _code(self, stops: Mapping[str, str]) -> Table:
        first = next(iter(stops))
        table: dict[str, tuple[Ask, Then]] = {
            stop: (self._step_at(stop, stops), _leads(to)) for stop, to in stops.items()
        }
        table["wait"] = (self._ask, lambda _, data, message: _took(data, message, first))
        return Table(
            self.id,
            table,
            first=lambda _, __: "wait",
            catches=dict.fromkeys(table, _interrupted),
            options=SOON,
        )

    def _ask(self, *_: object) -> Wait:
        return Wait("wait", (Note, Stop), timedelta(seconds=self.seconds or 1e6))

    def _step_at(self, stop: str, stops: Mapping[str, str]) -> Ask:
        work = self._hold if self.is_held and stops is VERSIONS[0] else self._work
        return lambda *_: Run(stop, work, options=StepOptions(retry=OFTEN))

    async def _hold(self) -> None:
        await asyncio.Event().wait()

    async def _work(self) -> None:
        await self._pause()
        if self.fails and self.rng.random() < 0.6:
            raise ConnectionError

    async def _pause(self) -> None:
        if self.is_held:
            return
        await asyncio.sleep(self.rng.choice([0, 0, 1, 3, 10]) * UNIT)  # reason: the races

    async def run(self, fleet: Fleet) -> None:
        """Let it all happen."""
        clients = [self._note(fleet, n) for n in range(NOTES)]
        clients += [self._start(fleet)]
        clients += [act(fleet) for act in self.rng.sample([self._cancel, self._edit], 1)]
        await asyncio.gather(*clients)
        await fleet.call(self.rng, lambda p: p.kernel.send(self.id, Stop(), key="stop", early=True))

    async def _start(self, fleet: Fleet) -> None:
        await self._pause()
        await fleet.call(
            self.rng, lambda p: p.kernel.start(self.codes[p.version], self.id, {"notes": []})
        )

    async def _note(self, fleet: Fleet, n: int) -> None:
        if not self.is_held:
            await asyncio.sleep(self.rng.uniform(0, 50) * UNIT)  # reason: in each deployment
        for _ in range(self.rng.choice([1, 2])):
            await fleet.call(
                self.rng,
                lambda p: p.kernel.send(self.id, Note(n), key=f"note {n}", early=True),
            )

    async def _cancel(self, fleet: Fleet) -> None:
        await self._pause()
        await fleet.call(
            self.rng,
            lambda p: p.kernel.engine.signal(self.id, "$control", "cancel", early=True),
        )

    async def _edit(self, fleet: Fleet) -> None:
        await self._pause()

        def edit(ctx: StateContext) -> Delay | None:
            ctx.put({**ctx.get(dict[str, Any], "data"), "edited": True}, "data")
            if ctx.current.status is Status.PAUSED:
                return None
            return Delay(ctx, ctx.current.transition.to, timedelta(0))

        async def change(process: Process) -> None:
            await process.kernel.engine.wait_for(self.id, until=lambda _: True, timeout=60)
            await process.kernel.engine.update(self.id, edit)

        await fleet.call(self.rng, change)

    async def look(self, kernel: Kernel) -> bool:
        """See that it ends, that each note was taken once, and whether it was set aside."""
        data = await kernel.result(self.id, timeout=60)
        assert sorted(data["notes"]) == [*range(NOTES)], data
        with contextlib.suppress(LookupError):
            mailbox = await kernel.engine.get_state(mailbox_id(self.id))
            assert b'"Note"' not in msgspec.json.encode(mailbox.values)
        return any(["parked" in state.labels async for state in kernel.engine.history(self.id)])


def _leads(to: str) -> Then:
    return lambda _, __, ___: to


def _took(data: dict[str, Any], message: object, to: str) -> Next:
    if isinstance(message, Stop):
        return Done(data)
    assert isinstance(message, Note)
    data["notes"].append(message.n)
    return to


def _interrupted(_: object, data: dict[str, Any], error: BaseException) -> Next:
    data.setdefault("errors", []).append(type(error).__name__)
    return "wait"


@pytest.mark.parametrize(
    "count", [AT_ONCE, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(3_600)])]
)
@pytest.mark.parametrize("store", STORES)
async def test_races_while_versions_are_deployed(
    store: str, count: int, request: pytest.FixtureRequest
) -> None:
    driver, were_parked = driver_of(store, request), 0
    for first in range(0, count, AT_ONCE):
        races = [Race(seed) for seed in range(first, first + AT_ONCE)]
        async with driver:
            fleet = Fleet(driver, races, crashes=bool(first % (2 * AT_ONCE)))
            await fleet.open(0)
            await asyncio.gather(fleet.deploy(), *(race.run(fleet) for race in races))
            (last,) = fleet.live
            were_parked += sum(await asyncio.gather(*(race.look(last.kernel) for race in races)))
            await last.close()
    assert were_parked or count == AT_ONCE
