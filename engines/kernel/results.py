"""What has come of an instance, as its state says."""

from flowstate import FlowstateError, State, Status
from flowstate.engines.kernel.errors import (
    InstanceCancelledError,
    InstanceFailedError,
    StoredError,
    restored,
)
from flowstate.engines.kernel.instance import ERROR, OUTCOME

__all__ = ["failure_of", "is_over"]


def is_over(state: State) -> bool:
    """Return whether an instance has an outcome, or was ended by force."""
    return OUTCOME in state.labels or state.status is Status.ENDED


def failure_of(state: State) -> FlowstateError | None:
    """Return why an instance that is over has no result; ``None`` if it has one."""
    outcome = state.labels.get(OUTCOME)
    if outcome == "done":
        return None
    if outcome == "cancelled":
        return InstanceCancelledError(state.id)
    error = state.get(StoredError, ERROR, default=None)
    if error is None:
        return InstanceFailedError(state.id, "it was ended by force")
    failure = InstanceFailedError(state.id, error.text)
    failure.__cause__ = restored(error)
    return failure
