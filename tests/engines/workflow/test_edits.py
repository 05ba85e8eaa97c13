"""Every edit while instances stand at every stop: they go on rightly, or are found and set aside.

Each edit changes nothing of what the workflow returns and logs. So an instance that goes on after
it must come to the same end. What cannot go on is told by the check before the deployment, parked
by it, and goes on to that end when the deployment is taken back.
"""

from typing import Any

import pytest

from flowstate import FakeClock, State, Status
from flowstate.engines.workflow import Workflows, check
from tests.engines.workflow.edits import EDITS, STOPS, VALUES, Log, Note, deployed
from tests.engines.workflow.orders import opened

XS = [10, 20]


async def settled(workflows: Workflows, id: str, before: int = 0) -> State:
    """Wait until an instance waits, is set aside, or has ended, after a revision."""
    return await workflows.engine.wait_for(
        id, until=lambda state: state.rev > before and state.status is not Status.ACTIVE
    )


async def driven(workflows: Workflows, id: str, to: str = "") -> State:
    """Send an instance what it waits for, until it stands at a stop, is set aside, or has ended."""
    state = await settled(workflows, id)
    while "outcome" not in state.labels and "parked" not in state.labels:
        stop = state.labels["stop"]
        if stop == to:
            break
        await workflows.send(id, Note(VALUES.get(stop.removesuffix("_new"), 0)))
        state = await settled(workflows, id, state.rev)
    return state


async def ended(workflows: Workflows, id: str) -> tuple[Any, list[int]]:
    """Let an instance go on to its end, and return the result and the log."""
    await workflows.engine.wait_for(id, until=lambda state: "parked" not in state.labels)
    await driven(workflows, id)
    return await workflows.result(id), (await workflows.query(id)).log


def often(edit: str) -> bool:
    """Return whether an edit is not only tried in the night: of each kind some stops are enough."""
    what, _, stop = edit.partition(": ")
    return not stop or what.startswith("stop ") or stop in ("looped", "caught", "cleaned", "called")


async def test_all_stops_are_passed() -> None:
    passed = set()
    async with opened(deployed(), clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(deployed(), "i", Log(XS))
        for stop in STOPS:
            passed.add((await driven(workflows, "i", stop)).labels.get("stop"))

    assert passed == {*STOPS}


@pytest.mark.parametrize(
    "edit",
    [each if often(each) else pytest.param(each, marks=pytest.mark.nightly) for each in EDITS],
)
async def test_instances_go_on_rightly_or_are_found(edit: str) -> None:
    before, after = deployed(), deployed(EDITS[edit])
    stood, parked, ends = {}, set(), {}
    async with opened(before, clock=FakeClock(autojump=False)) as workflows:
        engine = workflows.engine
        await workflows.start(before, "plain", Log(XS))
        plain = await ended(workflows, "plain")
        for stop in STOPS:
            await workflows.start(before, stop, Log(XS))
            stood[stop] = await driven(workflows, stop, stop)
        report = await check(engine, [after])
        async with Workflows(engine, [after]) as newer:
            for stop in STOPS:
                state = await driven(newer, stop)
                if "parked" in state.labels:
                    parked.add(stop)
                    for value in ("data", "threads"):
                        assert state.values[value] == stood[stop].values[value]
                else:
                    ends[stop] = await ended(newer, stop)
        async with Workflows(engine, [before]) as again:
            for stop in parked:
                ends[stop] = await ended(again, stop)

    assert parked == EDITS[edit].strands
    assert {id for found in report.stranded for id in found.ids} == parked
    assert ends == dict.fromkeys(STOPS, plain)
