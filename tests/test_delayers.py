"""Delayers that share a store: they divide what is due, and killed ones lose nothing."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
)
from flowstate.delayer import OTHERS_EVERY
from flowstate.driver import DelayedState, Driver, DuePage, DueQuery, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper, end
from tests.delayers import check_killed_delayers
from tests.redis_servers import RedisLike
from tests.servers import Postgres

REAL_SECONDS = 20  # A fake clock that jumps on and on is not stopped by pytest.
AT_ONCE = 100
KILLED_DELAYS = 10_000
PATIENCE = 180  # Seconds, where so many processes share few processors with others.


class Watched(DriverWrapper):
    """Counts what a delayer asks for, and takes a moment for each answer, like a server."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.max_batch_size = 128
        self.reads = 0
        self.commits: Counter[str] = Counter()
        self.stale: list[DelayedState] = []

    async def get_due(self, query: DueQuery) -> DuePage:
        self.reads += 1
        page = await super().get_due(query)
        await asyncio.sleep(0)
        return replace(page, due=[*self.stale, *page.due])

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        await asyncio.sleep(0)
        verdicts = await super().commit(batch)
        for writes, verdict in zip(batch, verdicts, strict=True):
            if [put.transition.cause for put in writes.puts] == ["delay"]:
                lost = isinstance(verdict, RevisionMismatchError)
                self.commits["lost" if lost else "won"] += 1
        return verdicts


def registry(*names: str) -> FlowRegistry:
    flows = FlowRegistry()

    def due(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    for name in names or ("due",):
        flows.set(name, due)
    return flows


async def store(engine: Engine, delays: Sequence[tuple[str, str, float]]) -> None:
    """Store delays: of which state, to which flow, and due in how many seconds."""
    for start in range(0, len(delays), AT_ONCE):
        await engine.do(
            Commit(
                *(
                    Delay(StateContext(State(id)), to, after=timedelta(seconds=seconds))
                    for id, to, seconds in delays[start : start + AT_ONCE]
                )
            )
        )


async def fired(engine: Engine) -> list[State]:
    return [state async for state in engine.states() if state.transition.cause == "delay"]


async def ended(engine: Engine, count: int) -> None:
    """Wait until so many states have ended."""
    async with asyncio.timeout(REAL_SECONDS), engine.watch(status=Status.ENDED) as states:
        for _ in range(count):
            await anext(states)


@pytest.mark.parametrize("seed", range(3))
async def test_delayers_divide_what_is_due(seed: int) -> None:
    clock = FakeClock()
    memory = MemoryDriver(clock)
    watched = [Watched(memory) for _ in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(Engine(driver, registry(), clock=clock))
            for driver in watched
        ]
        await store(engines[0], [(f"{number}", "due", 0) for number in range(3_000)])
        for number, engine in enumerate(engines):
            rng = Random(10 * seed + number)
            await stack.enter_async_context(Delayer(engine, rng=rng))
        await ended(engines[0], 3_000)
        assert sorted(int(s.id) for s in await fired(engines[0])) == list(range(3_000))
    assert min(driver.commits["won"] for driver in watched) > 300
    assert sum(driver.commits["lost"] for driver in watched) < 2_000  # Not 9,000.


async def test_what_is_due_first_fires_first() -> None:
    clock = FakeClock()
    driver = Watched(MemoryDriver(clock))
    async with Engine(driver, registry(), clock=clock) as engine:
        await store(engine, [(f"{number}", "due", number) for number in range(1_000)])
        await clock.sleep(2_000)
        async with Delayer(engine, batch=10):
            await ended(engine, 1_000)
        found = [int(state.id) for state in await fired(engine)]
    assert found != sorted(found)
    assert [number // 100 for number in found] == sorted(number // 100 for number in range(1_000))
    assert driver.reads <= 12


async def test_of_a_state_the_earliest_delay_fires() -> None:
    clock = FakeClock()
    async with Engine(MemoryDriver(clock), registry("early", "late"), clock=clock) as engine:
        for number in range(50):
            ctx = StateContext(State(f"{number}"))
            early, late = (timedelta(seconds=seconds) for seconds in (1, 2))
            delays = [Delay(ctx, "late", after=late), Delay(ctx, "early", after=early)]
            await engine.do(Commit(*delays))
        await clock.sleep(10)
        async with Delayer(engine, batch=10):
            await ended(engine, 50)
        assert {state.transition.to for state in await fired(engine)} == {"early"}


@pytest.mark.parametrize("backlog", [0, 2_300])
async def test_delays_of_others_hold_none_up_and_cost_nothing(
    backlog: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    start = clock.now()
    driver = Watched(MemoryDriver(clock))
    async with Engine(driver, registry("here", "there"), clock=clock) as engine:
        delays = [(f"there-{number}", "there", 0) for number in range(backlog)]
        await store(engine, [*delays, *((f"here-{number}", "here", 1) for number in range(5))])
        engine.flows.unset("there")
        await clock.sleep(1)
        async with Delayer(engine, batch=2):
            await ended(engine, 5)
            assert {state.committed_at for state in await fired(engine)} == {
                start + timedelta(seconds=1)
            }
            await clock.sleep(10.5)
            assert driver.reads <= 5
    warnings = [record for record in caplog.records if "are left to" in record.getMessage()]
    assert len(warnings) == bool(backlog)


async def test_a_flow_that_is_registered_later_is_noticed() -> None:
    clock = FakeClock()
    async with Engine(MemoryDriver(clock), registry("here", "there"), clock=clock) as engine:
        engine.flows.unset("there")
        engine.flows.declare("there")
        await store(engine, [("a", "there", 100)])
        async with Delayer(engine):
            await clock.sleep(1_000)
            assert await fired(engine) == []
            engine.flows.set("there", end, replace=True)
            await clock.sleep(1_100)
            assert [state.id for state in await fired(engine)] == ["a"]


async def test_delays_that_are_always_lost_keep_no_delayer_busy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    driver = Watched(MemoryDriver(clock))
    async with Engine(driver, registry(), clock=clock) as engine:
        await store(engine, [(f"{number}", "due", 0) for number in range(50)])
        driver.stale = list((await engine.get_delayed_states()).delayed)
        for delay in driver.stale:
            await engine.do(Commit(End(StateContext(delay.state))))
        await store(engine, [("good", "due", 0)])
        driver.reads = 0
        async with Delayer(engine, batch=10):
            await ended(engine, 51)
            await clock.sleep(OTHERS_EVERY / 2)
            # What has lost once may still be there, so there are two or three sweeps.
            assert driver.reads <= 20
            # The next look comes a minute after the first: a flow may be registered meanwhile.
            await clock.sleep(OTHERS_EVERY)
        assert driver.reads <= 30
    assert driver.commits["won"] == 1
    assert driver.commits["lost"] <= 4 * 50
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
async def test_killed_delayers_lose_nothing_on_sqlite(tmp_path: Path) -> None:
    await check_killed_delayers(str(tmp_path / "store.db"), "", KILLED_DELAYS)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
async def test_killed_delayers_lose_nothing_on_postgres(
    postgres: Postgres, postgres_schema: str
) -> None:
    await check_killed_delayers(postgres.url(), postgres_schema, KILLED_DELAYS)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
async def test_killed_delayers_lose_nothing_on_redis(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    await check_killed_delayers(redis_server.url(), redis_namespace, KILLED_DELAYS)
