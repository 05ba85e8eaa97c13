"""A delayer goes on past delays that its driver cannot read, on any driver."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    DamagedDelay,
    Delay,
    Delayer,
    DriverError,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    State,
    StateContext,
    Status,
    SystemClock,
)
from flowstate.driver import DuePage, DueQuery, Seen, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper, end

LOGGER = "flowstate.delayer"
SECOND = timedelta(seconds=1)
REAL_SECONDS = 20  # A fake clock that jumps on and on is not stopped by pytest.


class DamagedDriver(DriverWrapper):
    """Reports the delays of states called bad as damaged."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.reads = 0
        self.repaired: set[str] = set()

    async def get_due(self, query: DueQuery) -> DuePage:
        self.reads += 1
        page = await super().get_due(query)
        bad = [
            delay
            for delay in page.due
            if delay.state.id.startswith("bad") and delay.state.id not in self.repaired
        ]
        return replace(
            page,
            due=[delay for delay in page.due if delay not in bad],
            damaged=[DamagedDelay(d.id, d.state.id, d.due, "delay: on purpose") for d in bad],
        )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> DamagedDriver:
    return DamagedDriver(clock)


@pytest.fixture
async def engine(driver: DamagedDriver, clock: FakeClock) -> AsyncIterator[Engine]:
    flows = FlowRegistry()

    @flows.flow("due")
    def due(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        yield engine


async def delay(engine: Engine, **after: timedelta) -> None:
    for id, time in after.items():
        await engine.do(Commit(Delay(StateContext(State(id)), "due", after=time)))


async def next_ended(engine: Engine) -> tuple[str, datetime | None]:
    """Wait for a state to end; return which, and when."""
    async with asyncio.timeout(REAL_SECONDS), engine.watch(status=Status.ENDED) as ended:
        state = await anext(ended)
    return state.id, state.committed_at


def errors(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return state id and delay id of every error of the delayer."""
    return [
        (vars(record)["state_id"], vars(record)["delay_id"])
        for record in caplog.records
        if (record.name, record.levelno) == (LOGGER, logging.ERROR)
    ]


@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_damaged_delays_hold_none_up_and_are_logged_once(
    engine: Engine,
    driver: DamagedDriver,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    batch: int,
) -> None:
    start = clock.now()
    await delay(engine, **{f"bad{n}": timedelta(0) for n in range(4)}, good=5 * SECOND)
    async with Delayer(engine, batch=batch):
        assert await next_ended(engine) == ("good", start + 5 * SECOND)
    assert sorted(id for id, _ in errors(caplog)) == ["bad0", "bad1", "bad2", "bad3"]
    assert "delay: on purpose" in caplog.text


async def test_a_damaged_delay_does_not_keep_the_delayer_busy(
    engine: Engine, driver: DamagedDriver, clock: FakeClock
) -> None:
    await delay(engine, bad=timedelta(0))
    async with Delayer(engine, poll_interval=1.0):
        await clock.sleep(100.5)
    assert 50 <= driver.reads <= 102


async def test_a_repaired_delay_fires(
    engine: Engine, driver: DamagedDriver, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = clock.now()
    await delay(engine, bad=timedelta(0))
    async with Delayer(engine, poll_interval=1.0):
        await clock.sleep(2.5)
        driver.repaired.add("bad")
        assert await next_ended(engine) == ("bad", start + 3 * SECOND)
    assert len(errors(caplog)) == 1


async def test_pages_of_a_query_say_what_is_damaged(engine: Engine) -> None:
    await delay(engine, bad0=SECOND, bad1=2 * SECOND, good=3 * SECOND, bad2=4 * SECOND)
    page = await engine.get_delayed_states(limit=1)
    pages = [page]
    while page.more:
        page = await engine.do(page.next)
        pages.append(page)
    assert [[d.state_id for d in page.damaged] for page in pages] == [
        ["bad0"],
        ["bad1"],
        [],
        ["bad2"],
    ]
    assert [[d.state.id for d in page.delayed] for page in pages] == [[], [], ["good"], []]


class SlowCommits(DriverWrapper):
    """Takes a while to commit, in a batch that is never cancelled."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.max_batch_size = 64
        self._clock = clock
        self.seconds = 0.0
        self.committing = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.committing.set()
        await self._clock.sleep(self.seconds)
        return await super().commit(batch)


async def test_what_fires_as_the_delayer_is_left_is_executed(clock: FakeClock) -> None:
    driver, flows = SlowCommits(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        await engine.do(Commit(Delay(StateContext(State("a")), "work", after=SECOND)))
        driver.committing.clear()
        driver.seconds = 0.05
        async with Delayer(engine):
            await driver.committing.wait()
        await engine.idle()
        assert (await engine.get_state("a")).status is Status.ENDED


async def test_goes_on_when_the_driver_has_no_hint_to_give(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf(DriverWrapper):
        failures = 3

        async def changed(self, seen: Seen) -> Seen:
            if seen != Seen() and self.failures:
                self.failures -= 1
                raise DriverError("deaf")
            return await super().changed(seen)

    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    driver = Deaf(MemoryDriver(clock))
    async with Engine(driver, flows, clock=clock) as engine, Delayer(engine):
        await clock.sleep(30.0)
        assert not driver.failures
        await engine.do(Commit(Delay(StateContext(State("a")), "work", after=SECOND)))
        await clock.sleep(1.5)
        await engine.idle()
        assert (await engine.get_state("a")).status is Status.ENDED
    assert caplog.text.count("cannot fire delays") == 3


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("poll_interval", [0, -1, float("nan"), float("inf"), "x", True]),
        ("batch", [0, -5, 1.5, True, "x"]),
        ("lease", [0, -1, float("nan"), "x"]),
        ("rng", [3, "x"]),
    ],
)
def test_bad_options_are_refused_by_name(field: str, values: list[Any]) -> None:
    engine = Engine(MemoryDriver(), FlowRegistry())
    for value in values:
        with pytest.raises(InvalidInputError) as raised:
            Delayer(engine, **{field: value})
        assert raised.value.field == field


class WallClock(SystemClock):
    """A real clock whose time of day can be set forward."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def test_a_delay_fires_soon_after_the_time_of_day_was_set_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, flows = WallClock(), FlowRegistry()
    monkeypatch.setattr(WallClock, "longest_sleep", 0.05)
    flows.set("due", end)
    async with Engine(MemoryDriver(clock), flows, clock=clock) as engine, Delayer(engine):
        ctx = StateContext(State("a"))
        await engine.do(Commit(Delay(ctx, "due", after=timedelta(hours=1))))
        clock.ahead = timedelta(hours=2)
        assert (await next_ended(engine))[0] == "a"
