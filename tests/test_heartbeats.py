"""An engine keeps alive what it executes, and stops what it cannot keep alive."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    DriverError,
    End,
    Engine,
    Execute,
    ExecutionLostError,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    Resume,
    State,
    StateContext,
    StoreBusyError,
    SystemClock,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat
from flowstate.drivers.memory import MemoryDriver
from flowstate.execution import Note, read_note
from flowstate.limits import MAX_NOTE_BYTES
from flowstate.recovery import idempotency_key
from flowstate.recovery_rules import DISABLED, RETRY_AFTER
from flowstate.testcases.support import DriverWrapper

HOUR = 3600.0


class Recorder(DriverWrapper):
    """Counts heartbeats, and fails them on request."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.beats: list[Heartbeat] = []
        self.calls = 0
        self.is_away = False
        self.locked = ""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.calls += 1
        if self.is_away:
            raise DriverError("away")
        if any(beat.id == self.locked for beat in heartbeats):
            raise StoreBusyError("locked")
        self.beats += heartbeats
        return await super().beat(heartbeats)

    async def stalled(self) -> list[str]:
        return [stalled.id for stalled in (await self.get_due(DueQuery("stall"))).due]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry(), clock=clock, name="here") as engine:
        yield engine


async def committed(engine: Engine, id: str = "a", **annotations: str) -> StateContext:
    ctx = StateContext(State(id, annotations=annotations))
    await engine.do(Commit(Transit(ctx, "work")))
    return ctx


async def test_ten_hours_are_never_stalled_and_cost_a_heartbeat_each_third(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(10 * 60):
            await clock.sleep(60.0)
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []
    assert len(driver.beats) == pytest.approx(10 * HOUR / 40.0, abs=2)
    assert read_note(driver.beats[-1].note).engine == "here"
    assert read_note(driver.beats[-1].note).seconds == pytest.approx(10 * HOUR, abs=100)


async def test_shorter_rules_count_from_their_commit_on(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ctx.set_annotation(RETRY_AFTER, "1")
        await engine.do(Commit(Transit(ctx, "work")))
        for _ in range(50):
            await clock.sleep(0.5)
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []


async def test_each_commit_of_a_long_execution_starts_again(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(100):
            await clock.sleep(30.0)
            await engine.do(Commit(Transit(ctx, "work")))
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []
    assert {beat.id for beat in driver.beats} <= {"a"}


async def test_short_executions_cost_no_heartbeat(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(39.0)
        return Commit(End(ctx))

    contexts = [await committed(engine, str(number)) for number in range(10)]
    await asyncio.gather(*(engine.execute(ctx) for ctx in contexts))
    assert driver.calls == 0


async def test_many_are_kept_alive_with_one_call(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(70.0)
        return Commit(End(ctx))

    for number in range(200):
        await engine.do(Execute(await committed(engine, str(number))))
    await engine.idle()
    assert (len(driver.beats), driver.calls) == (200, 1)


async def test_the_own_rules_of_a_state_count(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(100.0)
        return Commit(End(ctx))

    quick = await committed(engine, "quick", **{RETRY_AFTER: "3"})
    slow = await committed(engine, "slow", **{RETRY_AFTER: "3000"})
    off = await committed(engine, "off", **{DISABLED: ""})
    await asyncio.gather(*(engine.execute(ctx) for ctx in (quick, slow, off)))
    assert {beat.id for beat in driver.beats} == {"quick"}
    assert len(driver.beats) == pytest.approx(100, abs=5)


async def test_what_waits_for_its_turn_is_kept_alive(driver: Recorder, clock: FakeClock) -> None:
    stalled: list[str] = []
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(500.0)
        stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock, max_executions=1) as engine:
        for number in range(5):
            await engine.do(Execute(await committed(engine, str(number))))
        await engine.idle()
    assert stalled == []


async def test_an_old_state_is_kept_alive_before_its_flow_begins(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    found: list[tuple[int, int]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert await driver.stalled() == []
        found.append((len(driver.beats), ctx.committed.rev))
        return Commit(End(ctx))

    await committed(engine)
    await clock.sleep(41.0)
    await engine.execute(StateContext(await engine.get_state("a")))
    assert found == [(1, 1)]


@pytest.mark.parametrize("age", [85.0, 119.0, 121.0, 7200.0])
async def test_one_that_stalls_soon_gets_a_new_revision_before_its_flow_begins(
    engine: Engine, driver: Recorder, clock: FakeClock, age: float
) -> None:
    found: list[tuple[int, str | None, str]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert await driver.stalled() == []
        note = ctx.current.transition.annotations.get("note")
        found.append((ctx.committed.rev, note, ctx.current.labels["draft"]))
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work", {"note": "kept"})))
    await clock.sleep(age)
    old = StateContext(await engine.get_state("a"))
    old.set_label("draft", "of the caller")
    await engine.execute(old)
    assert found == [(2, "kept", "of the caller")]
    second, third = [s async for s in engine.states(since_rev=1)]
    assert second.transition.annotations["note"] == "kept"
    assert (second.transition.cause, dict(second.labels)) == ("transit", {})
    assert (third.status, dict(third.labels)) == ("ended", {"draft": "of the caller"})


async def test_of_two_that_execute_a_stalled_state_at_once_one_does(
    engine: Engine, clock: FakeClock
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.committed.rev)
        await clock.sleep(10.0)
        return Commit(End(ctx))

    await committed(engine)
    await clock.sleep(500.0)
    contexts = [StateContext(await engine.get_state("a")) for _ in range(5)]
    await asyncio.gather(*(engine.execute(ctx) for ctx in contexts))
    assert ran == [2]


async def test_a_state_that_has_moved_on_is_not_executed(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx)
        return Noop()

    ctx = await committed(engine)
    old = StateContext(ctx.committed)
    await engine.do(Commit(Transit(ctx, "work")))
    await engine.execute(old)
    assert ran == []


@pytest.mark.parametrize("background", [True, False])
async def test_without_contact_it_stops_before_others_may_take_over(
    engine: Engine,
    driver: Recorder,
    clock: FakeClock,
    background: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped: list[tuple[float, list[str]]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        try:
            await clock.sleep(HOUR)
        except asyncio.CancelledError:
            stopped.append((clock.monotonic(), await driver.stalled()))
            raise
        return Commit(End(ctx))

    ctx = await committed(engine)
    if background:
        await engine.do(Execute(ctx))
        await engine.idle()
        assert "no heartbeat got through" in caplog.text
    else:
        with pytest.raises(ExecutionLostError, match="no heartbeat got through"):
            await engine.execute(ctx)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
    ((at, stalled),) = stopped
    assert at == pytest.approx(108.0, abs=1.0)
    assert stalled == []
    assert driver.calls > 3  # It tried again meanwhile.


async def test_contact_that_comes_back_saves_the_execution(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        await clock.sleep(90.0)
        driver.is_away = False
        await clock.sleep(HOUR)
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert (await engine.get_state("a")).status == "ended"


@pytest.mark.parametrize("taken", [True, False])
async def test_a_process_that_slept_too_long_looks_before_it_calls_another_flow(
    engine: Engine, driver: Recorder, clock: FakeClock, taken: bool
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        if len(ran) > 1:
            return Commit(End(ctx))
        if taken:
            await engine.do(Commit(Transit(StateContext(ctx.committed), "work")))
        clock.advance(HOUR)  # As when the process is stopped, right before it goes on.
        return Transit(ctx, "work")

    await engine.execute(await committed(engine))
    assert ran == ["a"] if taken else ["a", "a"]


async def test_only_the_lost_one_of_two_nested_executions_stops(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ends: list[str] = []

    @engine.flows.flow("outer")
    async def outer(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            await engine.execute(await committed(engine, "inner", **{RETRY_AFTER: "10"}))
        except ExecutionLostError as lost:
            ends.append(lost.id)
        driver.is_away = False
        await clock.sleep(1.0)
        return Commit(End(ctx))

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        await clock.sleep(HOUR)
        return Noop()

    ctx = StateContext(State("outer"))
    await engine.do(Commit(Transit(ctx, "outer")))
    await engine.execute(ctx)
    assert ends == ["inner"]
    assert ctx.committed.status == "ended"


async def test_why_it_failed_is_noted(engine: Engine, driver: Recorder) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError("no " + "luck " * 10_000)

    ctx = await committed(engine)
    (before,) = await driver.get_liveness(["a"])
    await engine.do(Execute(ctx))
    await engine.idle()
    while not driver.beats:  # noqa: ASYNC110 - it is sent by a task that cannot be waited for
        await asyncio.sleep(0)  # reason: that task needs its turn
    (found,) = await driver.get_liveness(["a"])
    assert found is not None
    assert before is not None
    assert found.stalls_at == before.stalls_at
    note = read_note(found.note)
    assert (note.engine, note.seconds) == ("here", None)
    assert note.error.startswith("ValueError: no luck")
    assert len(found.note.encode()) <= MAX_NOTE_BYTES


async def test_failures_are_noted_before_the_engine_closes(
    driver: Recorder, clock: FakeClock
) -> None:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError(ctx.current.id)

    async with Engine(driver, flows, clock=clock) as engine:
        for number in range(10):
            await engine.do(Execute(await committed(engine, str(number))))
    assert {read_note(beat.note).error for beat in driver.beats} == {
        f"ValueError: {number}" for number in range(10)
    }


def test_any_error_can_be_noted() -> None:
    for text in ("\ud800", "\0" * 10_000, "\U0001f600" * 10_000, '"\\' * 10_000):
        note = Note.of_failure("here", ValueError(text)).encode()
        assert len(note.encode()) <= MAX_NOTE_BYTES
        assert read_note(note).error.startswith("ValueError: ")


@pytest.mark.parametrize("text", ["", "x", "[]", '{"seconds": "x"}', "[" * 100_000])
def test_odd_notes_are_empty(text: str) -> None:
    assert read_note(text) == Note()


async def test_a_flow_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    flows = FlowRegistry()

    @flows.flow("rude")
    async def rude(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.sleep(0)  # reason: what blocks is not the first part of the flow
        deadline = time.monotonic() + 10.0
        while "blocks the event loop" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - reason: this is what is to be noticed
        return Commit(End(ctx))

    with caplog.at_level(logging.WARNING):
        async with Engine(MemoryDriver(), flows, warn_blocked_after=0.1) as engine:
            ctx = StateContext(State("a"))
            await engine.do(Commit(Transit(ctx, "rude")))
            await engine.execute(ctx)
    assert "flow 'rude' of 'a' blocks the event loop" in caplog.text
    assert "time.sleep(0.01)" in caplog.text
    (record,) = [each for each in caplog.records if "blocks" in each.message]
    assert record.flow == "rude"  # type: ignore[attr-defined]


async def test_blocking_flows_disturb_nothing(caplog: pytest.LogCaptureFixture) -> None:
    flows = FlowRegistry()

    @flows.flow("work", blocking=True)
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        time.sleep(0.3)  # reason: longer than the loop may be blocked
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows, warn_blocked_after=0.1) as engine:
        ctx = await committed(engine, **{RETRY_AFTER: str(timedelta(hours=1).total_seconds())})
        await engine.execute(ctx)
    assert caplog.text == ""


async def kept_through(engine: Engine, driver: Recorder, clock: FakeClock, seconds: float) -> None:
    """Look again and again whether anything has stalled."""
    for _ in range(int(seconds / 5)):
        await clock.sleep(5.0)
        assert await driver.stalled() == []


async def test_what_is_committed_first_within_the_flow_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(10.0)
        await engine.do(Commit(Transit(ctx, "work")))
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Transit(ctx, "work"))
    await engine.execute(ctx)
    assert ctx.committed.rev == 2


async def test_what_a_returned_command_commits_first_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Transit(ctx, "second"))

    @engine.flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command[None]:
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Transit(ctx, "first"))
    await engine.execute(ctx)


async def test_a_state_that_pauses_and_resumes_in_its_flow_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(ctx)))
        await clock.sleep(60.0)
        await engine.do(Commit(Resume(ctx)))
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    await engine.execute(await committed(engine))


@pytest.mark.parametrize("is_copy", [True, False])
async def test_what_a_flow_goes_on_with_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock, is_copy: bool
) -> None:
    @engine.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        if is_copy:
            other = ctx.copy()
        else:
            await engine.do(Commit(End(ctx)))
            other = StateContext(State("other", annotations={RETRY_AFTER: "10"}))
        await engine.do(Commit(Transit(other, "second")))
        return Execute(other)

    @engine.flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command[None]:
        await kept_through(engine, driver, clock, 500)
        await engine.do(Commit(Transit(ctx, "second")))
        await kept_through(engine, driver, clock, 500)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "first")))
    await engine.execute(ctx)


async def test_nested_executions_of_one_context_are_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("outer")
    async def outer(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Transit(ctx, "inner"))
        await engine.execute(ctx)
        ctx.set_annotation(RETRY_AFTER, "6")
        await engine.do(Commit(Transit(ctx, "outer")))
        await kept_through(engine, driver, clock, 500)
        return Commit(End(ctx))

    @engine.flows.flow("inner")
    async def inner(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "inner")))
        return Noop()

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "outer")))
    await engine.execute(ctx)


async def test_executing_an_old_state_keeps_its_idempotency_key(
    engine: Engine, clock: FakeClock
) -> None:
    keys: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(idempotency_key(ctx))
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        await engine.execute(await committed(engine))
    for _ in range(3):
        await clock.sleep(500.0)
        with pytest.raises(ValueError, match="no luck"):
            await engine.execute(StateContext(await engine.get_state("a")))
    assert keys == ["a:1:work"] * 4


async def test_one_locked_state_stops_no_other(driver: Recorder, clock: FakeClock) -> None:
    flows, stalled = FlowRegistry(), set[str]()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(500.0)
        stalled.update(await driver.stalled())
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        contexts = [await committed(engine, str(number)) for number in range(50)]
        driver.locked = "7"
        for ctx in contexts:
            await engine.do(Execute(ctx))
        await engine.idle()
    assert stalled == {"7"}


async def test_a_stop_that_is_cancelled_leaves_nothing_behind(
    driver: Recorder, clock: FakeClock
) -> None:
    flows, before, threads = FlowRegistry(), asyncio.all_tasks(), set(threading.enumerate())

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    engine = Engine(driver, flows, clock=clock, shutdown_timeout=60.0)
    await engine.__aenter__()
    await engine.do(Execute(await committed(engine)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.__aexit__(None, None, None)
    assert asyncio.all_tasks() == before
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5"])
def test_a_bad_limit_for_blocking_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="warn_blocked_after"):
        Engine(MemoryDriver(), FlowRegistry(), warn_blocked_after=seconds)


async def test_without_a_limit_no_thread_watches_the_loop() -> None:
    flows, threads = FlowRegistry(), set(threading.enumerate())

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert set(threading.enumerate()) <= threads
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows, warn_blocked_after=None) as engine:
        await engine.execute(await committed(engine))


class Suspended(SystemClock):
    """That of a machine that can be suspended: its timers stand still meanwhile."""

    longest_sleep = 0.02
    slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept


async def test_what_ran_while_the_machine_was_suspended_is_stopped_when_it_wakes() -> None:
    clock, flows = Suspended(), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        clock.slept = HOUR
        await asyncio.sleep(10.0)
        return Noop()

    async with Engine(MemoryDriver(), flows, clock=clock) as engine:
        with pytest.raises(ExecutionLostError):
            await engine.execute(await committed(engine))
