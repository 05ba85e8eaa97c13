"""Waiting until one state is as wanted."""

from collections.abc import Callable

from flowstate.commands import GetStates
from flowstate.errors import InvalidInputError
from flowstate.limits import check_id
from flowstate.options import check_seconds
from flowstate.reading import check_status
from flowstate.runtime import Runtime
from flowstate.state import State, Status
from flowstate.tasks import first
from flowstate.watch import Watch

__all__ = ["wait_for"]

Reached = Callable[[State], object]


async def wait_for(
    runtime: Runtime,
    id: str,
    status: Status | None,
    until: Reached | None,
    seconds: float | None,
) -> State:
    """Do ``Engine.wait_for``, which says what is promised."""
    id, reached = check_id("id", id), _condition(status, until)
    if seconds is None:
        return await _first_of(_watch(runtime, id), reached)
    check_seconds("timeout", seconds)
    if seconds:
        sleep = runtime.clock.sleep(seconds)
        found = await first(_first_of(_watch(runtime, id), reached), sleep)
    else:
        found = await runtime.driver.get_state(id)
        found = found if found is not None and reached(found) else None
    if found is None:
        raise TimeoutError(f"{id!r} was not as wanted within {seconds:g} seconds")
    return found


def _condition(status: Status | None, until: Reached | None) -> Reached:
    if (status is None) == (until is None):
        raise InvalidInputError("until", "is needed, or a status; not both")
    if until is None:
        check_status(status)
        return lambda state: state.status is status
    if not callable(until):
        raise InvalidInputError("until", f"must be a function, not {type(until).__name__}")
    return until


def _watch(runtime: Runtime, id: str) -> Watch:
    # It begins at the latest revision, so one read tells the present and what follows on it.
    return runtime.watch(GetStates(id=id, since_latest=True))


async def _first_of(watch: Watch, reached: Reached) -> State:
    async with watch as states:
        state = await anext(states)
        if state.transition.cause == "forget":
            state = await anext(states)  # What was forgotten before is not there any more.
        while not reached(state):
            state = await anext(states)
        return state
