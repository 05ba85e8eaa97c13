"""Times are given in seconds or as a timedelta, and each timeout is told from the others."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from flowstate import InvalidInputError
from flowstate.engines.workflow import Timeout, WorkflowFailed, wait, workflow
from flowstate.engines.workflow.sections import After, Sections, Wait
from flowstate.recovery import retry_after
from tests.engines.workflow.orders import opened


class Waiting(Struct):
    time: Any


class Never(Struct):
    pass


@workflow("waiting")
async def waiting(s: Waiting) -> str:
    try:
        await wait(Never, timeout=s.time)
    except TimeoutError:
        return "over"
    return "never"


@workflow("limited", timeout=timedelta(seconds=5))
async def limited(s: Waiting) -> str:
    match await wait(Never, Timeout(minutes=5)):
        case Timeout():
            return "the wait is over"
    return "never"


async def test_a_timeout_of_a_wait_may_be_seconds() -> None:
    async with opened(waiting) as workflows:
        began = workflows.engine.clock.now()
        await workflows.start(waiting, "w", Waiting(1.5))
        assert await workflows.result("w") == "over"
        assert workflows.engine.clock.now() - began == timedelta(seconds=1.5)


async def test_a_timeout_that_is_no_time_is_refused_at_its_line() -> None:
    async with opened(waiting) as workflows:
        await workflows.start(waiting, "w", Waiting("soon"))
        with pytest.raises(WorkflowFailed, match="a time is seconds or a timedelta, not 'soon'"):
            await workflows.result("w")


async def test_the_timeout_of_a_workflow_is_not_that_of_its_wait() -> None:
    async with opened(limited) as workflows:
        await workflows.start(limited, "w", Waiting(0))
        with pytest.raises(WorkflowFailed, match="the workflow has taken longer than it may"):
            await workflows.result("w")


@workflow("hasty", retry_after=timedelta(seconds=3))
async def hasty(s: Waiting) -> None:
    await wait(Never)


async def test_a_workflow_may_say_how_long_it_stands_still_after_a_crash() -> None:
    long = After(timedelta(days=1))
    sections = Sections("sections", Waiting, Wait("w", long), retry_after=timedelta(seconds=4))
    async with opened(hasty, sections, limited) as workflows:
        for code in (hasty, sections, limited):
            await workflows.start(code, code.name, Waiting(1))
        states = [await workflows.engine.get_state(id) for id in ("hasty", "sections", "limited")]
    assert [retry_after(state).total_seconds() for state in states] == [3, 4, 120]


def test_a_timeout_of_a_workflow_is_a_timedelta() -> None:
    with pytest.raises(InvalidInputError, match="timeout: must be a timedelta, not 10"):
        workflow("w", timeout=10)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="timeout: must be a timedelta, not 10"):
        Sections("w", Waiting, timeout=10)  # type: ignore[arg-type]


@workflow("wrong")
async def wrong(s: Waiting) -> str:
    return s.time  # type: ignore[no-any-return]


async def test_a_result_of_another_type_says_of_what() -> None:
    async with opened(wrong) as workflows:
        await workflows.start(wrong, "w", Waiting(5))
        with pytest.raises(WorkflowFailed, match="result of 'wrong': is not of its type"):
            await workflows.result("w")


async def test_data_of_another_type_says_of_which() -> None:
    async with opened(wrong) as workflows:
        with pytest.raises(InvalidInputError, match="data: is not of the type Waiting: Object"):
            await workflows.start(wrong, "w", {})


async def test_a_result_that_is_late_says_of_what() -> None:
    async with opened(waiting) as workflows:
        with pytest.raises(TimeoutError, match="'w' has not ended within 3 seconds"):
            await workflows.result("w", timeout=3)
