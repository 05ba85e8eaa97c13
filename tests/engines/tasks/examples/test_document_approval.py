"""A document is approved or refused; without a decision the next approver is asked."""

from typing import Any

import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from tests.engines.tasks.examples.driving import event, example, stands_at

LISTENS = "/do/1/ask/try/1/awaitDecision"
INPUT = {"document": "d-1", "approvers": ["anna", "ben"]}


def decision(approved: bool, by: str) -> CloudEvent:
    return event("approval.decided", document="d-1", approved=approved, by=by)


@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_is_taken(approved: bool) -> None:
    async with example("document-approval") as tasks:
        id = await tasks.start("examples/document-approval", INPUT)
        await stands_at(tasks.kernel, id, LISTENS, timeout=20)
        await tasks.publish(decision(approved, "anna"))

        answer = {"document": "d-1", "approved": approved, "by": "anna"}
        assert await tasks.result(id) == answer


async def test_the_next_approver_is_asked_after_two_days() -> None:
    async with example("document-approval", autojump=False) as tasks:
        clock: Any = tasks.engine.clock
        id = await tasks.start("examples/document-approval", INPUT)
        first = await stands_at(tasks.kernel, id, LISTENS, timeout=20)
        clock.advance(2 * 86_400)
        await tasks.engine.wait_for(id, until=lambda state: state.rev > first.rev + 1)
        await stands_at(tasks.kernel, id, LISTENS, timeout=20)
        await tasks.publish(decision(True, "ben"))

        assert (await tasks.result(id))["by"] == "ben"


async def test_without_any_decision_it_is_not_approved() -> None:
    async with example("document-approval") as tasks:
        before = tasks.engine.clock.monotonic()
        id = await tasks.start("examples/document-approval", INPUT)

        assert await tasks.result(id) == {"document": "d-1", "approved": False, "by": ""}
        assert 4 * 86_400 <= tasks.engine.clock.monotonic() - before < 4 * 86_400 + 60
