"""Waits for a state to get somewhere, and says why it does not."""

import asyncio

from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.recovery import explain
from flowstate.state import State, Status
from flowstate.testing.plugin.revisions import format_log

__all__ = ["reached"]

MOST_SHOWN = 10


async def reached(
    engine: Engine,
    id: str,
    status: Status = Status.ENDED,
    *,
    flow: str | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 - the error says more than that of asyncio.timeout
) -> State:
    """Wait until a state has a status; return the revision that has.

    Args:
        engine: on whose store the state is.
        id: of the state.
        status: what to wait for.
        flow: that the state must be in as well.
        timeout: real seconds, also with a fake clock.

    Raises:
        AssertionError: it took longer; says why the state does not move.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _reached(engine, id, status, flow)
    except TimeoutError:
        wanted = status.value if flow is None else f"{status.value} in {flow!r}"
        late = f"{id!r} is not {wanted} after {timeout:g} s: {await _why(engine, id)}"
    raise AssertionError(late)


async def _reached(engine: Engine, id: str, status: Status, flow: str | None) -> State:
    head = await engine.head()
    latest = await engine.driver.get_state(id)
    if latest is not None and latest.status is status and flow in {None, latest.transition.to}:
        return latest
    async with engine.watch(status=status, since_rev=head) as states:
        async for state in states:
            if state.id == id and flow in {None, state.transition.to}:
                return state
    raise AssertionError("a watch goes on without end")


async def _why(engine: Engine, id: str) -> str:
    try:
        text = (await explain(engine, id)).text
    except StateNotFoundError:
        return "there is no such state"
    revisions = [state async for state in engine.states() if state.id == id]
    return "\n".join([text, "", *format_log(revisions[-MOST_SHOWN:])])
