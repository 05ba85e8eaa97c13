"""Background executions are bounded, owned, and ended with their engine."""

import asyncio

import pytest

from flowstate import EngineOverloadedError, EngineStoppedError, State, StateContext
from flowstate.executions.execution import Execution
from flowstate.executions.pool import ExecutionPool


class Flows:
    """Runs contexts until it is told that they are done."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.done: list[str] = []
        self.cancelled: list[str] = []
        self.go_on = asyncio.Event()

    async def run(self, execution: Execution) -> None:
        ctx = execution.ctx
        self.running.append(ctx.current.id)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(ctx.current.id)
            raise
        self.done.append(ctx.current.id)

    @staticmethod
    async def run_at_once(_: Execution) -> None:
        await asyncio.sleep(0)  # reason: the others have a turn


def new(number: int) -> Execution:
    return Execution(StateContext(State(str(number))), 0.0)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)  # reason: all that can go on has gone on after so many turns


async def test_runs_no_more_at_once_than_allowed_and_keeps_the_order() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 3, 100)
    for number in range(10):
        await executions.submit(new(number))
    await turns()
    assert (executions.running, executions.pending) == (3, 7)
    assert flows.running == ["0", "1", "2"]

    flows.go_on.set()
    await executions.idle()
    assert flows.done == [str(number) for number in range(10)]


async def test_a_caller_from_outside_waits_for_room() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 1, 1)
    await executions.submit(new(0))
    await executions.submit(new(1))
    waiting = asyncio.create_task(executions.submit(new(2)))
    await turns()
    assert not waiting.done()

    flows.go_on.set()
    await waiting
    await executions.idle()
    assert flows.done == ["0", "1", "2"]


async def test_a_flow_is_told_that_there_is_no_room() -> None:
    ran: list[str] = []

    async def run(execution: Execution) -> None:
        ctx = execution.ctx
        if ctx.current.id == "0":
            with pytest.raises(EngineOverloadedError):
                await executions.submit(new(2))
        ran.append(ctx.current.id)

    executions = ExecutionPool(run, 1, 1)
    await executions.submit(new(0))
    await executions.submit(new(1))
    await executions.idle()

    assert ran == ["0", "1"]


async def test_stop_forgets_who_waits_and_refuses_the_rest() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 1, 2)
    for number in range(3):
        await executions.submit(new(number))
    waiting = asyncio.create_task(executions.submit(new(3)))
    await turns()

    assert len(executions.stop()) == 2
    for late in (waiting, executions.submit(new(4))):
        with pytest.raises(EngineStoppedError):
            await late
    flows.go_on.set()
    await executions.finish(1, 1)
    assert flows.done == ["0"]


async def test_finish_lets_what_runs_end_and_then_cancels_it() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 5, 5)
    for number in range(2):
        await executions.submit(new(number))
    await turns()
    executions.stop()
    await executions.finish(0.01, 1)

    assert sorted(flows.cancelled) == ["0", "1"]
    assert executions.running == 0


async def test_one_that_fails_makes_room() -> None:
    async def run(execution: Execution) -> None:
        ctx = execution.ctx
        done.append(ctx.current.id)
        if ctx.current.id == "0":
            raise asyncio.CancelledError

    done: list[str] = []
    executions = ExecutionPool(run, 1, 5)
    for number in range(3):
        await executions.submit(new(number))
    await executions.idle()

    assert done == ["0", "1", "2"]


async def test_where_nothing_may_wait_what_has_room_runs() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 1, 0)
    async with asyncio.timeout(5.0):
        await executions.submit(new(0))
    waiting = asyncio.create_task(executions.submit(new(1)))
    await turns()
    assert not waiting.done()
    flows.go_on.set()
    await waiting
    await executions.idle()
    assert flows.done == ["0", "1"]


async def test_room_that_is_kept_is_for_one_only() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 2, 5)
    slot, other = executions.reserve(), executions.reserve()
    assert slot is not None
    assert other is not None
    assert executions.reserve() is None
    await executions.submit(new(0))
    await turns()
    assert flows.running == []

    await executions.submit(new(1), slot)
    await executions.submit(new(2), slot)  # It is used up.
    await turns()
    assert (flows.running, executions.pending) == (["1"], 2)
    executions.release(slot)
    await turns()
    assert flows.running == ["1"]
    executions.release(other)
    executions.release(other)
    await turns()
    assert (flows.running, executions.pending) == (["1", "0"], 1)

    flows.go_on.set()
    await executions.idle()
    assert flows.done == ["1", "0", "2"]


async def test_idle_waits_for_what_waits_for_room_that_is_kept() -> None:
    flows = Flows()
    flows.go_on.set()
    executions = ExecutionPool(flows.run, 1, 5)
    slot = executions.reserve()
    assert slot is not None
    await executions.submit(new(0))
    idle = asyncio.create_task(executions.idle())
    await turns()
    assert not idle.done()

    executions.release(slot)
    await idle
    assert flows.done == ["0"]


async def test_a_pool_that_has_stopped_keeps_no_room() -> None:
    executions = ExecutionPool(Flows().run, 2, 5)
    executions.stop()
    with pytest.raises(EngineStoppedError):
        executions.reserve()


async def test_callers_get_room_in_their_order_and_one_that_is_cancelled_takes_none() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 1, 0)
    await executions.submit(new(0))
    waiting = [asyncio.create_task(executions.submit(new(number))) for number in range(1, 6)]
    await turns()
    waiting[1].cancel()
    await turns()
    flows.go_on.set()
    waiting[0].cancel()
    await asyncio.wait(waiting)
    await executions.idle()
    assert flows.done == ["0", "3", "4", "5"]


async def test_a_caller_that_is_cancelled_as_it_gets_room_leaves_it_to_the_next() -> None:
    flows = Flows()
    executions = ExecutionPool(flows.run, 1, 0)
    slot = executions.reserve()
    assert slot is not None
    first, second = (asyncio.create_task(executions.submit(new(number))) for number in range(2))
    await turns()
    executions.release(slot)
    first.cancel()
    await turns()
    assert flows.running == ["1"]
    flows.go_on.set()
    await second
    await executions.idle()


async def test_room_costs_the_same_however_many_wait_for_it() -> None:
    callers, resumed = 200, 0
    executions = ExecutionPool(Flows.run_at_once, 1, 0)

    async def submit(number: int) -> None:
        nonlocal resumed
        steps = executions.submit(new(number)).__await__()
        for future in steps:
            resumed += 1
            await asyncio.wait([future])

    await asyncio.gather(*map(submit, range(callers)))
    await executions.idle()
    assert resumed < 4 * callers
