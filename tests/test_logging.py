"""One DEBUG record for each command, with its parts apart; silent unless asked."""

import asyncio
import logging
import subprocess
import sys
from datetime import timedelta

import pytest

from flowstate import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    Engine,
    Execute,
    FlowRegistry,
    GetState,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Transit,
    Transition,
)
from flowstate.drivers.memory import MemoryDriver

LOGGER = "flowstate.engine"
QUIET_PROGRAM = """
import asyncio
from flowstate import *
from flowstate.drivers.memory import MemoryDriver
async def main():
    async with Engine(MemoryDriver(), FlowRegistry()) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Pause(ctx)), Noop())
        async with engine.watch() as states:
            await anext(states)
asyncio.run(main())
"""


@pytest.fixture
def flows() -> FlowRegistry:
    flows = FlowRegistry()
    flows.declare("next")
    return flows


def commands_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["command"] for record in caplog.records if record.name == LOGGER]


async def test_one_debug_record_for_each_command(
    flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with Engine(MemoryDriver(), flows) as engine:
        ctx = StateContext(State("a", annotations={"password": "hunter2"}))
        await engine.do(Commit(Transit(ctx, "next", {"token": "hunter2"})))
        await engine.do(Pause(ctx), Transit(ctx, "next"))
        await engine.do(Delay(ctx, "next", after=timedelta(days=1)))
        await engine.get_state("a")

    assert commands_of(caplog) == ["Commit", "Pause", "Transit", "Delay", "GetState"]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    first = caplog.records[0]
    assert "'a'" in vars(first)["what"]
    assert "next" in vars(first)["what"]
    assert not [record for record in caplog.records if "hunter2" in repr(vars(record))]


@pytest.mark.parametrize("kind", [RevisionMismatchError, StateNotFoundError])
async def test_failures_are_recorded_once_and_raised(
    kind: type[Exception], flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(MemoryDriver(), flows) as engine:
        await engine.do(Commit(Transit(StateContext(State("a")), "next")))
        caplog.set_level(logging.DEBUG, LOGGER)
        command: Command[object] = GetState("unknown")
        if kind is RevisionMismatchError:
            command = Commit(Pause(StateContext(State("a"))))
        with pytest.raises(kind):
            await engine.do(command)

    (record,) = caplog.records
    assert "failed" in record.getMessage()
    assert vars(record)["command"] == type(command).__name__


async def test_a_failed_background_execution_is_an_error_with_its_state(
    flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ZeroDivisionError

    flows.set("fail", fail)
    async with Engine(MemoryDriver(), flows) as engine:
        await engine.do(Execute(StateContext(State("a", transition=Transition("fail")))))
        await engine.idle()

    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.ERROR)
    assert (vars(record)["state_id"], vars(record)["rev"]) == ("a", 0)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_lost_race_of_a_flow_is_no_more_than_debug(
    flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(ctx.copy())))
        return Commit(End(ctx))

    flows.set("late", late)
    async with Engine(MemoryDriver(), flows) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "late")))
        caplog.set_level(logging.DEBUG, LOGGER)
        await engine.execute(ctx)

    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    (lost,) = (record for record in caplog.records if hasattr(record, "ids"))
    assert (vars(lost)["state_id"], vars(lost)["ids"]) == ("a", ("a",))


@pytest.mark.parametrize("is_superseded", [True, False])
async def test_a_lost_race_within_a_flow_is_quiet_if_others_have_moved_it_on(
    is_superseded: bool, flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async def fenced(ctx: StateContext, engine: Engine) -> Command[None]:
        if is_superseded:
            await engine.do(Commit(Pause(StateContext(await engine.get_state("a")))))
        else:
            ctx = StateContext(State("a"))  # Of no revision that there was.
        await engine.update("other", lambda _: Check(ctx), attempts=2)
        return Commit(End(ctx))

    flows.set("fenced", fenced)
    async with Engine(MemoryDriver(), flows) as engine:
        await engine.do(Commit(Pause(StateContext(State("other")))))
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "fenced")))
        outcome = await (await engine.begin(ctx))
    levels = [record.levelno for record in caplog.records]
    assert levels == ([] if is_superseded else [logging.ERROR])
    assert (outcome is None) == is_superseded


async def test_a_flow_that_raises_a_cancellation_itself_is_logged(
    flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    async def gives_up(ctx: StateContext, engine: Engine) -> Command[None]:
        raise asyncio.CancelledError

    flows.set("next", gives_up, replace=True)
    async with Engine(MemoryDriver(), flows) as engine:
        await engine.do(Execute(StateContext(State("a", transition=Transition("next")))))
        await engine.idle()
    (record,) = caplog.records
    assert record.getMessage() == "execution of 'a' was cancelled by its own flow"
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_a_flow_that_is_cancelled_by_a_stop_is_not_logged_so(
    flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def waits(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        await asyncio.Event().wait()
        return Commit(End(ctx))

    flows.set("next", waits, replace=True)
    async with Engine(MemoryDriver(), flows, shutdown_timeout=0.0) as engine:
        await engine.do(Execute(StateContext(State("a", transition=Transition("next")))))
        await begun.wait()
    assert not [each for each in caplog.records if "own flow" in each.getMessage()]


def test_nothing_is_printed_by_default() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", QUIET_PROGRAM],
        check=True,
        capture_output=True,
        text=True,
    )

    assert (done.stdout, done.stderr) == ("", "")
