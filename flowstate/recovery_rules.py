"""When a state counts as stalled: the rules that each state carries itself.

An active state that stands still for too long is recovered (see :mod:`flowstate.recovery`). How
long that is, stands in its annotations, so that it is recovered under the rules that it was
committed with, by whichever process.
"""

from datetime import timedelta

from flowstate.state import State, Status

__all__ = [
    "AGAIN",
    "ATTEMPT",
    "DEFAULT_RETRY_AFTER",
    "DISABLED",
    "LONGEST",
    "MAX_ATTEMPTS",
    "MOST_ATTEMPTS",
    "ORIGIN",
    "PREFIX",
    "RETRY_AFTER",
    "SHORTEST",
    "STOP_AT",
    "WAIT",
    "attempt",
    "counts_from",
    "read_count",
    "retry_after",
    "stalls_after",
    "without_attempt",
]

PREFIX = "flowstate.recovery."
RETRY_AFTER = PREFIX + "retry_after"  # Annotations of a state; seconds.
MAX_ATTEMPTS = PREFIX + "max_attempts"
DISABLED = PREFIX + "disabled"
ATTEMPT = PREFIX + "attempt"  # Annotations of the transition by which it was recovered.
WAIT = PREFIX + "wait"  # Seconds until the next one.
ORIGIN = PREFIX + "origin"  # Written by older libraries: what ``Transition.origin`` says now.
AGAIN = "flowstate.again"  # Annotation of a delay that lets its state go on in the same step.

DEFAULT_RETRY_AFTER = timedelta(minutes=2)
MOST_ATTEMPTS = 1_000_000
SHORTEST = 0.001
LONGEST = 365_000 * 86_400.0
STOP_AT = 9 / 10  # Part of the time: what was not kept alive is stopped then, before it stalls.
ACTIVE = Status.ACTIVE  # Enums look their members up slowly.


def retry_after(state: State) -> timedelta:
    """Return after how long without progress a state is recovered."""
    return _seconds(state.annotations.get(RETRY_AFTER)) or DEFAULT_RETRY_AFTER


def stalls_after(state: State) -> timedelta | None:
    """Return how long a revision may stand still, or ``None``: without end.

    A driver adds it to the time of the commit, or to when the earliest delay of the revision is
    due. Settings that cannot be read count as not there: that must keep no state from recovery.
    """
    transition = state.transition
    if state.status is not ACTIVE or not transition.to:
        return None
    if not state.annotations and not transition.annotations:
        return DEFAULT_RETRY_AFTER
    if DISABLED in state.annotations:
        return None
    return _seconds(transition.annotations.get(WAIT)) or retry_after(state)


def counts_from(last: State, state: State, since: float, now: float) -> float:
    """Return from when a revision counts that stalls no later than the last one.

    It is so that the execution of the state has to stop no later than before, and no sooner unless
    the revision asks for that.

    Args:
        last: the revision before it, which counts from ``since``.
        state: the revision, committed at ``now``.
        since: in seconds, like the result.
        now: in seconds.
    """
    before, after = stalls_after(last), stalls_after(state)
    if before is None or after is None:
        return now
    return min(now, since + (before - after).total_seconds() * STOP_AT)


def _seconds(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return timedelta(seconds=seconds) if SHORTEST <= seconds <= LONGEST else None


def attempt(state: State) -> int:
    """Return how many times a state has been executed again since its last progress.

    Within a flow, ``attempt(ctx.current)`` is 0 in the first execution.
    """
    return read_count(state.transition.annotations.get(ATTEMPT)) or 0


def without_attempt(state: State) -> dict[str, str]:
    """Return the annotations of the transition as they were before any attempt."""
    ours = (ATTEMPT, WAIT, ORIGIN)
    return {key: text for key, text in state.transition.annotations.items() if key not in ours}


def read_count(text: str | None) -> int | None:
    """Return a count from an annotation, or ``None`` when there is none that can be read."""
    if text is None or len(text) > len(str(MOST_ATTEMPTS)):
        return None
    return int(text) if text.isascii() and text.isdigit() else None
