"""The marks of states that were ended by force: after crashes, or by the policy of a flow."""

from collections.abc import Mapping

from flowstate.ground.frozen import FrozenDict
from flowstate.recovery_rules import PREFIX, attempt, without_attempt
from flowstate.retrying import failures_of, without_failures
from flowstate.state import State, Status

__all__ = [
    "ATTEMPTS",
    "CAUSE",
    "DEAD",
    "ERROR",
    "FAILURES",
    "LABEL",
    "MARKS",
    "REASON",
    "is_dead",
    "marks_of",
]

LABEL = "flowstate.recovery"
DEAD: Mapping[str, str] = FrozenDict({LABEL: "dead"})
REASON = PREFIX + "reason"  # Annotations of the transition by which the state was ended.
ATTEMPTS = PREFIX + "attempts"
FAILURES = PREFIX + "failures"
ERROR = PREFIX + "error"
CAUSE = PREFIX + "cause"
MARKS = (REASON, ATTEMPTS, FAILURES, ERROR, CAUSE)


def marks_of(state: State, reason: str, error: str, failures: int | None = None) -> dict[str, str]:
    """Return the annotations with which a state is ended by force.

    Args:
        state: as it is, in the flow that is given up.
        reason: why, for people.
        error: what the last execution raised, as far as that is known.
        failures: how many there were, if the state does not tell.
    """
    before = without_failures(without_attempt(state))
    number = failures_of(state.transition.annotations) if failures is None else failures
    return before | {
        REASON: reason,
        ATTEMPTS: str(attempt(state)),
        FAILURES: str(number),
        ERROR: error,
        CAUSE: state.transition.cause,
    }


def is_dead(state: State) -> bool:
    """Return whether a state was ended by force."""
    if state.status is not Status.ENDED or state.labels.get(LABEL) != DEAD[LABEL]:
        return False
    return REASON in state.transition.annotations  # Else it has gone on and ended since.
