"""A flow is told when others move its state on, in every event loop and every process."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    DriverError,
    End,
    Engine,
    EngineStoppedError,
    Execute,
    ExecutionLostError,
    FakeClock,
    FlowRegistry,
    Pause,
    Retry,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.driver import Driver, Heartbeat, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.executed import Executed, executed_in
from flowstate.executions.execution import Execution
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.testcases.support import DriverWrapper, encoded
from tests.scripted import Scripted, settled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> MemoryDriver:
    return MemoryDriver(clock)


@pytest.fixture
def flows() -> FlowRegistry:
    return FlowRegistry()


@pytest.fixture
async def engine(
    driver: MemoryDriver, flows: FlowRegistry, clock: FakeClock
) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock) as engine:
        yield engine


async def new(engine: Engine, id: str = "a", to: str = "work", **state: Any) -> StateContext:
    ctx = StateContext(State(id, **state))
    await engine.do(Commit(Transit(ctx, to)))
    return ctx


async def move_on(engine: Engine, id: str = "a") -> State:
    """Commit a state from elsewhere than its flow."""
    ctx = StateContext(await engine.get_state(id))
    await engine.do(Commit(Pause(ctx)))
    return ctx.committed


class Running:
    """A flow that waits until its state is moved on by others, or until it is let go."""

    def __init__(self, *commands: Callable[[StateContext], Command[None]]) -> None:
        self.commands = list(commands)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.told: list[bool] = []
        self.cancelled = 0
        self.ctx = StateContext(State("none"))

    async def __call__(self, ctx: StateContext, _: Engine) -> Command[None]:
        self.ctx = ctx
        self.begun.set()
        self.told.append(ctx.superseded)
        waiting = [
            asyncio.ensure_future(each) for each in (ctx.wait_superseded(), self.go_on.wait())
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.told.append(ctx.superseded)
            for each in waiting:
                each.cancel()
        return self.commands.pop(0)(ctx) if self.commands else Commit(End(ctx))


# In one process


async def test_a_commit_of_the_same_engine_tells_at_once(
    engine: Engine, flows: FlowRegistry
) -> None:
    work = Running()
    flows.set("work", work)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    moved = await move_on(engine)
    assert work.ctx.superseded
    await executing
    assert work.told == [False, True]
    assert await engine.get_state("a") == moved
    assert engine.stats().superseded == 1


async def test_an_engine_of_another_driver_on_the_same_store_tells_too(
    tmp_path: Path, flows: FlowRegistry
) -> None:
    work = Running()
    flows.set("work", work)
    file = tmp_path / "store.db"
    async with Engine(SQLiteDriver(file), flows) as engine, Engine(SQLiteDriver(file), flows) as it:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await work.begun.wait()
        await move_on(it)
        assert work.ctx.superseded
        await executing


async def test_an_engine_of_another_store_tells_nothing(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    work = Running()
    flows.set("work", work)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    async with Engine(MemoryDriver(clock), flows, clock=clock) as other:
        await new(other)
        await move_on(other)
    assert not work.ctx.superseded
    work.go_on.set()
    await executing
    assert (await engine.get_state("a")).status is Status.ENDED
    assert engine.stats().superseded == 0


def in_thread(do: Callable[[], Coroutine[Any, Any, None]]) -> Coroutine[Any, Any, None]:
    return asyncio.to_thread(asyncio.run, do())


async def test_another_event_loop_tells_too(tmp_path: Path, flows: FlowRegistry) -> None:
    work = Running()
    flows.set("work", work)
    file = tmp_path / "store.db"

    async def elsewhere() -> None:
        async with Engine(SQLiteDriver(file), flows) as other:
            await move_on(other)

    async with Engine(SQLiteDriver(file), flows) as engine:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await work.begun.wait()
        await in_thread(elsewhere)
        await executing
    assert work.told == [False, True]


@pytest.mark.parametrize("by", ["delay", "retry", "joined"])
async def test_all_that_commits_tells(engine: Engine, flows: FlowRegistry, by: str) -> None:
    work = Running()
    flows.set("work", work)
    flows.declare("other")
    ctx = await new(engine)
    executing = asyncio.create_task(engine.execute(ctx.copy()))
    await work.begun.wait()
    if by == "delay":
        await engine.do(Delay(ctx, "work", timedelta(0)))
        fired = Running()
        fired.go_on.set()
        flows.set("work", fired, replace=True)
        async with Delayer(engine):
            await executing
            await engine.idle()
    elif by == "retry":
        await engine.do(Commit(Retry(ctx)))
    else:
        tx = Joined(engine)
        await engine.do(Commit(Transit(ctx, "other")), tx=tx)
        assert not work.ctx.superseded
        async with tx.committed():
            pass
    assert work.ctx.superseded
    await executing


class Joined:
    """A transaction of a user, which writes what joins it when it ends."""

    def __init__(self, engine: Engine) -> None:
        self._driver = engine.driver
        self.store_id = engine.driver.store_id
        self._joined: list[tuple[Writes, Callable[[Verdict], None]]] = []

    def add(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        self._joined.append((writes, settle))

    @contextlib.asynccontextmanager
    async def committed(self) -> AsyncIterator[None]:
        """Write, and tell the engine at the end of the block."""
        verdicts = [(await self._driver.commit([writes]))[0] for writes, _ in self._joined]
        yield
        for verdict, (_, settle) in zip(verdicts, self._joined, strict=True):
            settle(verdict)


async def test_a_refused_commit_tells_nothing(engine: Engine, flows: FlowRegistry) -> None:
    work = Running()
    flows.set("work", work)
    ctx = await new(engine)
    executing = asyncio.create_task(engine.execute(ctx))
    await work.begun.wait()
    with pytest.raises(RevisionMismatchError):
        await engine.do(Commit(Pause(StateContext(State("a")))))
    assert not work.ctx.superseded
    work.go_on.set()
    await executing


async def test_one_of_several_executions_of_a_state_tells_the_others(
    engine: Engine, flows: FlowRegistry
) -> None:
    first, second = Running(), Running()
    both = [first, second]

    @flows.flow
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return await both.pop(0)(ctx, engine)

    ctx = await new(engine)
    await engine.do(Execute(ctx), Execute(ctx))
    await first.begun.wait()
    await second.begun.wait()
    first.go_on.set()
    await engine.idle()
    assert first.told == [False, False]
    assert second.told == [False, True]
    assert engine.stats().superseded == 1
    assert executed_in(engine.driver.store_id).by_id == {}


async def test_a_copy_is_told_and_a_fork_is_not(engine: Engine, flows: FlowRegistry) -> None:
    work = Running()
    flows.set("work", work)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    copy, fork = work.ctx.copy(), work.ctx.fork("b")
    await move_on(engine)
    assert (copy.superseded, fork.superseded) == (True, False)
    await asyncio.wait_for(copy.wait_superseded(), 5.0)
    await executing


async def test_outside_of_an_execution_nothing_is_told(engine: Engine, flows: FlowRegistry) -> None:
    flows.declare("work")
    ctx = await new(engine)
    waiting = asyncio.create_task(ctx.wait_superseded())
    await move_on(engine)
    await settled()
    assert not ctx.superseded
    assert not waiting.done()
    waiting.cancel()


async def test_what_a_nested_execution_was_told_the_outer_one_knows_too(
    engine: Engine, flows: FlowRegistry
) -> None:
    inner, told = Running(), list[bool]()

    async def outer(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "inner")))
        await engine.execute(ctx)
        told.append(ctx.superseded)
        return Commit(End(ctx))

    flows.set("outer", outer)
    flows.set("inner", inner)
    executing = asyncio.create_task(engine.execute(await new(engine, to="outer")))
    await inner.begun.wait()
    await move_on(engine)
    await executing
    assert (inner.told, told) == ([False, True], [True])
    assert engine.stats().superseded == 2


async def test_no_further_flow_is_called(engine: Engine, flows: FlowRegistry) -> None:
    visits: list[str] = []
    work = Running(lambda ctx: Transit(ctx, "next"))
    flows.set("work", work)

    @flows.flow("next")
    def next_one(ctx: StateContext, engine: Engine) -> Command[None]:
        visits.append("next")
        return Commit(End(ctx))

    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    moved = await move_on(engine)
    await executing
    assert visits == []
    assert await engine.get_state("a") == moved


async def test_what_waits_for_its_turn_is_never_called(
    driver: MemoryDriver, flows: FlowRegistry, clock: FakeClock
) -> None:
    work = Running()
    flows.set("work", work)
    async with Engine(driver, flows, clock=clock, max_executions=1) as engine:
        await engine.do(Execute(await new(engine)), Execute(await new(engine, "b")))
        await work.begun.wait()
        await move_on(engine, "b")
        work.go_on.set()
        await engine.idle()
    assert work.told == [False, False]


# Its own commits


async def test_its_own_commits_tell_nothing(engine: Engine, flows: FlowRegistry) -> None:
    cancelled: list[str] = []

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            for number in range(20):
                ctx.set_annotation("number", str(number))
                await engine.do(Commit(Retry(ctx)))
                await asyncio.sleep(0)  # reason: a cancellation would come now
                assert not ctx.superseded
        except asyncio.CancelledError:
            cancelled.append(ctx.current.id)
            raise
        return Commit(End(ctx))

    ctx = await new(engine)
    await engine.execute(ctx)
    assert ctx.committed.status is Status.ENDED
    assert cancelled == []
    assert engine.stats().superseded == 0


async def test_a_heartbeat_that_sees_an_own_commit_before_its_verdict_tells_nothing(
    flows: FlowRegistry, clock: FakeClock
) -> None:
    driver = Scripted(MemoryDriver(clock))
    told: list[bool] = []

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.verdicts = release
        committing = asyncio.ensure_future(engine.do(Commit(Transit(ctx, "work"))))
        await driver.reached.wait()
        await clock.sleep(41.0)  # A heartbeat is sent meanwhile.
        told.append(ctx.superseded)
        release.set()
        await committing
        await clock.sleep(41.0)
        told.append(ctx.superseded)
        return Commit(End(ctx))

    release = asyncio.Event()
    async with Engine(driver, flows, clock=clock) as engine:
        ctx = await new(engine)
        await engine.execute(ctx)
    assert told == [False, False]
    assert ctx.committed.status is Status.ENDED


async def test_nor_does_one_that_sees_what_a_transaction_has_written(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    told: list[bool] = []

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        tx = Joined(engine)
        await engine.do(Commit(Transit(ctx, "work")), tx=tx)
        async with tx.committed():
            await clock.sleep(41.0)
            told.append(ctx.superseded)
        await elsewhere(engine.driver)
        await clock.sleep(41.0)  # What is over keeps nothing from being told.
        told.append(ctx.superseded)
        return Commit(End(ctx))

    await engine.execute(await new(engine))
    assert told == [False]


async def test_a_renewal_before_a_flow_begins_tells_nothing(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    work = Running()
    flows.set("work", work, interrupt=True)
    ctx = await new(engine, annotations={RETRY_AFTER: "60"})
    await clock.sleep(59.0)
    work.go_on.set()
    await engine.execute(ctx)
    assert work.told == [False, False]
    assert ctx.committed.rev == 3  # The second is the renewal.


# In other processes


class Elsewhere(DriverWrapper):
    """The store as another process sees it: what is committed here, no engine knows."""

    def __init__(self, driver: MemoryDriver) -> None:
        super().__init__(driver)
        self.is_away = False
        self.beats = 0

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.beats += 1
        if self.is_away:
            raise DriverError("away")
        return await super().beat(heartbeats)


async def elsewhere(driver: Driver, id: str = "a") -> None:
    state = await driver.get_state(id)
    assert state is not None
    (verdict,) = await driver.commit([encoded(Writes(f"elsewhere {state.rev}", (state,)))])
    assert isinstance(verdict, tuple)


@pytest.mark.parametrize("interrupt", [False, True])
async def test_the_next_heartbeat_tells_of_other_processes(
    flows: FlowRegistry, clock: FakeClock, interrupt: bool
) -> None:
    driver = Elsewhere(MemoryDriver(clock))
    work = Running()
    flows.set("work", work, interrupt=interrupt)
    async with Engine(driver, flows, clock=clock) as engine:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await work.begun.wait()
        await elsewhere(driver)
        await settled()
        assert not work.ctx.superseded
        await clock.sleep(41.0)
        await executing
        assert work.told == [False, True]
        assert work.cancelled == interrupt
        assert driver.beats == 1
        assert engine.stats().superseded == 1


async def test_what_was_told_is_stopped_all_the_same_when_no_heartbeat_gets_through(
    flows: FlowRegistry, clock: FakeClock
) -> None:
    driver = Elsewhere(MemoryDriver(clock))
    begun = asyncio.Event()

    @flows.flow
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        await asyncio.Event().wait()
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await begun.wait()
        driver.is_away = True
        await move_on(engine)
        await clock.sleep(120.0)
        with pytest.raises(ExecutionLostError):
            await executing


# Interruptions


async def test_a_flow_that_wants_it_is_cancelled_and_its_execution_ends_quietly(
    engine: Engine, flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    work = Running()
    flows.set("work", work, interrupt=True)
    outcome = await engine.begin(await new(engine))
    await work.begun.wait()
    moved = await move_on(engine)
    assert await outcome is None
    await engine.idle()
    assert work.cancelled == 1
    assert await engine.get_state("a") == moved
    assert caplog.text == ""

    work.begun.clear()
    ctx = await new(engine, "b")
    executing = asyncio.create_task(engine.execute(ctx))
    await work.begun.wait()
    await move_on(engine, "b")
    await executing
    assert executing.cancelling() == 0


async def test_a_task_that_goes_on_after_its_flow_was_interrupted_is_not_cancelled(
    engine: Engine, flows: FlowRegistry
) -> None:
    work = Running()
    flows.set("work", work, interrupt=True)
    ctx = await new(engine)

    async def caller() -> str:
        await engine.execute(ctx)
        await asyncio.sleep(0)  # reason: a cancellation would come now
        return "went on"

    task = asyncio.create_task(caller())
    await work.begun.wait()
    await move_on(engine)
    assert await task == "went on"


@pytest.mark.parametrize("does", ["returns", "raises"])
async def test_a_flow_that_swallows_its_interruption_loses_its_race(
    engine: Engine, flows: FlowRegistry, does: str
) -> None:
    begun = asyncio.Event()

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if does == "raises":
                raise ValueError("cannot clean up") from None
        return Commit(End(ctx))

    executing = asyncio.create_task(engine.execute(await new(engine)))
    await begun.wait()
    moved = await move_on(engine)
    if does == "raises":
        with pytest.raises(ValueError, match="cannot clean up"):
            await executing
    else:
        await executing
    assert executing.cancelling() == 0
    assert await engine.get_state("a") == moved


async def test_a_cancellation_from_outside_counts_for_more_than_an_interruption(
    engine: Engine, flows: FlowRegistry
) -> None:
    work = Running()
    flows.set("work", work, interrupt=True)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    await move_on(engine)
    executing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await executing


async def test_an_interruption_as_the_engine_stops_is_a_stop(
    driver: MemoryDriver, flows: FlowRegistry, clock: FakeClock
) -> None:
    begun, stubborn = asyncio.Event(), asyncio.Event()

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        try:
            await stubborn.wait()
        except asyncio.CancelledError:
            await stubborn.wait()
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock, shutdown_timeout=0.0) as engine:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await begun.wait()
        await move_on(engine)
        await settled()
    with pytest.raises(EngineStoppedError):
        await executing
    assert executing.cancelling() == 0


async def test_a_second_commit_interrupts_no_second_time(
    engine: Engine, flows: FlowRegistry
) -> None:
    begun, ends = asyncio.Event(), list[str]()

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await move_on(engine)  # It cleans up, and others go on.
            ends.append("cleaned up")
        return Commit(End(ctx))

    executing = asyncio.create_task(engine.execute(await new(engine)))
    await begun.wait()
    await move_on(engine)
    await executing
    assert ends == ["cleaned up"]
    assert executing.cancelling() == 0


async def test_a_flow_that_is_interrupted_during_its_own_commit_is_refused(
    flows: FlowRegistry, clock: FakeClock
) -> None:
    driver = Scripted(MemoryDriver(clock))
    seen: list[str] = []
    begun = asyncio.Event()

    @flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        await go_on.wait()
        try:
            await engine.do(Commit(Transit(ctx, "work")))
        except RevisionMismatchError:
            seen.append("refused")
            raise
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return Commit(End(ctx))

    go_on = asyncio.Event()
    async with Engine(driver, flows, clock=clock) as engine:
        ctx = await new(engine)
        executing = asyncio.create_task(engine.execute(ctx))
        await begun.wait()
        driver.verdicts = asyncio.Event()
        moving = asyncio.create_task(move_on(engine))
        await driver.reached.wait()  # It is stored, and not known yet.
        go_on.set()
        await settled()  # The commit of the flow waits for the next batch.
        driver.verdicts.set()
        moved = await moving
        await asyncio.wait([executing])
        assert await engine.get_state("a") == moved
    assert seen == ["cancelled"]
    assert executing.exception() is None
    assert ctx.committed.rev == 1


async def test_only_a_flow_that_wants_it_is_cancelled(engine: Engine, flows: FlowRegistry) -> None:
    first = Running(lambda ctx: Transit(ctx, "second"))
    second = Running()
    flows.set("work", first, interrupt=True)
    flows.set("second", second)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await first.begun.wait()
    first.go_on.set()
    await second.begun.wait()
    await move_on(engine)
    await executing
    assert (first.cancelled, second.cancelled) == (0, 0)
    assert second.told == [False, True]


async def test_an_interruption_in_a_thread_gives_the_call_up_and_tells_it(
    engine: Engine, flows: FlowRegistry
) -> None:
    begun, told, ended = threading.Event(), threading.Event(), threading.Event()

    @flows.flow("work", interrupt=True, blocking=True)
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        for _ in range(60_000):
            if ctx.superseded and ctx.stopping:
                told.set()
                break
            ended.wait(0.001)
        return Commit(End(ctx))

    executing = asyncio.create_task(engine.execute(await new(engine)))
    assert await asyncio.to_thread(begun.wait, 60.0)
    moved = await move_on(engine)
    await executing
    assert await asyncio.to_thread(told.wait, 60.0)
    assert await engine.get_state("a") == moved


async def test_a_flow_with_a_policy_that_is_interrupted_has_not_failed(
    engine: Engine, flows: FlowRegistry
) -> None:
    work = Running()
    flows.set("work", work, interrupt=True, retry=RetryPolicy(), timeout=50.0)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await work.begun.wait()
    moved = await move_on(engine)
    await executing
    assert await engine.get_state("a") == moved
    stats = engine.stats()
    assert (stats.failures, stats.timeouts, stats.superseded) == (0, 0, 1)


# What knows of the executions


async def test_an_execution_that_goes_on_with_another_state_is_told_of_that_one(
    engine: Engine, flows: FlowRegistry
) -> None:
    follow, work = Running(lambda _: Execute(other)), Running()
    flows.set("work", follow)
    flows.set("next", work)
    other = await new(engine, "b", "next")
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await follow.begun.wait()
    follow.go_on.set()
    await work.begun.wait()
    await move_on(engine, "a")
    assert not work.ctx.superseded
    await move_on(engine, "b")
    assert work.ctx.superseded
    await executing
    assert executed_in(engine.driver.store_id).by_id == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab")), max_size=40))
def test_whatever_enters_and_leaves_is_known_exactly_meanwhile(
    steps: list[tuple[int, str]],
) -> None:
    executed = Executed()
    inside: dict[tuple[int, str], Execution] = {}
    for step in steps:
        if step in inside:
            execution = inside.pop(step)
            execution.is_over = True
            executed.remove(execution)
        else:
            inside[step] = Execution(StateContext(State(step[1])), 0.0)
            executed.add(inside[step])
        known: list[object] = []
        for found in executed.by_id.values():
            known += found if isinstance(found, tuple) else (found,)
        assert sorted(map(id, known)) == sorted(map(id, inside.values()))


def test_threads_that_execute_one_state_leave_nothing_behind() -> None:
    executed = Executed()
    ready = threading.Barrier(4)

    def enter_and_leave() -> None:
        ready.wait(60.0)
        for _ in range(2_000):
            execution = Execution(StateContext(State("a")), 0.0)
            executed.add(execution)
            execution.is_over = True
            executed.remove(execution)

    threads = [threading.Thread(target=enter_and_leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert executed.by_id == {}
