"""Why a state does not move: in words, and as data."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from msgspec import Struct

from flowstate.driver import Liveness
from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.execution import Note, read_note
from flowstate.limits import check_id
from flowstate.recovery.dead import is_dead, read_dead
from flowstate.recovery.lease import HOLDER, lease_id
from flowstate.recovery.policy import attempt, is_disabled, max_attempts
from flowstate.recovery.recoverer import lease_name
from flowstate.state import State, Status

__all__ = ["Explanation", "Why", "explain"]

Why = Literal[
    "ended",
    "dead",
    "paused",
    "delayed",
    "overdue",
    "unsent",
    "executing",
    "failed",
    "fresh",
    "disabled",
    "unknown flow",
    "stalled",
]
"""Why a state does not move.

``ended`` and ``dead`` (ended by force); ``paused``; ``delayed``, and ``overdue`` when no delayer
has fired the delay; ``unsent`` to any flow; ``executing`` by an engine; ``failed``, and retried
later; ``fresh``: committed a moment ago, executed by somebody or lost, which shows when it stalls;
``disabled``: recovery of it is; ``unknown flow`` here; ``stalled``, and about to be recovered.
"""

ATTEMPTS_TO_READ = 5


class Explanation(Struct, frozen=True):
    """Why a state does not move.

    Attributes:
        why: in a word.
        text: in words for people.
        state: the latest revision.
        since: how long it has been so, by the store's clock, as far as that is known.
        until: when something is about to happen: the delay fires, or the state stalls.
        engine: that executes it, or did.
        attempts: how many times it has been executed again since its last progress.
        max_attempts: how many times it may be.
        error: what the last execution raised, as far as that is known.
        leader: the engine that recovers, as the store says; empty when none does.
    """

    why: Why
    text: str
    state: State
    since: datetime | None = None
    until: datetime | None = None
    engine: str = ""
    attempts: int = 0
    max_attempts: int = 0
    error: str = ""
    leader: str = ""


async def explain(engine: Engine, id: str, *, group: str = "default") -> Explanation:
    """Explain why a state does not move; reads a few rows, and changes nothing.

    Args:
        engine: whose store and flows count.
        id: of the state.
        group: of the recoverers.

    Raises:
        StateNotFoundError: there is no such state.
    """
    check_id("id", id)
    state, liveness = await _read(engine, id)
    if state.status is Status.ENDED:
        return _ended(state)
    if state.status is Status.PAUSED:
        text = f"paused in flow {state.transition.to!r} since {_at(state.committed_at)}"
        return Explanation("paused", text, state, since=state.committed_at)
    known = engine.can_execute(state.transition.to)
    return _active(state, liveness, await _leader(engine, group), known=known)


async def _read(engine: Engine, id: str) -> tuple[State, Liveness]:
    """Return a latest revision and what is known of that very revision."""
    for _ in range(ATTEMPTS_TO_READ):
        liveness = await engine.driver.get_liveness(id)
        if liveness is None:
            break
        state = await engine.driver.get_state(id, liveness.rev)
        if state is not None:
            return state, liveness
    raise StateNotFoundError(f"no state {id!r}")


async def _leader(engine: Engine, group: str) -> str:
    lease = await engine.driver.get_state(lease_id(lease_name(group)))
    return "" if lease is None else lease.annotations.get(HOLDER, "")


def _ended(state: State) -> Explanation:
    if not is_dead(state):
        text = f"ended in flow {state.transition.to!r} at {_at(state.committed_at)}"
        return Explanation("ended", text, state, since=state.committed_at)
    dead = read_dead(state)
    text = f"ended by force at {_at(dead.at)}: {dead.reason}"
    if dead.error:
        text += f"; the last one failed: {dead.error}"
    return Explanation("dead", text, state, since=dead.at, attempts=dead.attempts, error=dead.error)


def _active(state: State, liveness: Liveness, leader: str, *, known: bool) -> Explanation:
    note = read_note(liveness.note)
    facts: dict[str, Any] = {
        "state": state,
        "until": liveness.stalls_at,
        "engine": note.engine,
        "attempts": attempt(state),
        "max_attempts": max_attempts(state),
        "error": note.error,
        "leader": leader,
        "since": state.committed_at,
    }
    why, text, changed = _why(state, liveness, note, leader, known=known)
    return Explanation(why=why, text=text, **(facts | changed))


def _why(
    state: State, liveness: Liveness, note: Note, leader: str, *, known: bool
) -> tuple[Why, str, dict[str, Any]]:
    """Return the reason in a word and in words, and which facts are others because of it."""
    flow, now = state.transition.to, liveness.now
    stalls_at = liveness.stalls_at
    due = liveness.delay_due
    if due is not None and note == Note():
        if due > now:
            return "delayed", f"delayed until {_at(due)}", {"until": due}
        text = f"its delay has been due since {_at(due)}; does a Delayer run?"
        return "overdue", text, {"since": due}
    if not flow:
        return "unsent", "active, but never sent to a flow", {}
    if note.seconds is not None and liveness.beat_at is not None:
        return _executed(liveness, note, flow)
    if stalls_at is not None and stalls_at <= now:
        return _stalled(state, stalls_at, leader, known=known)
    return _waiting(state, liveness, note)


def _waiting(state: State, liveness: Liveness, note: Note) -> tuple[Why, str, dict[str, Any]]:
    flow, stalls_at = state.transition.to, liveness.stalls_at
    if is_disabled(state):
        return "disabled", f"in flow {flow!r}, and its recovery is disabled", {}
    left = f"{attempt(state)} of {max_attempts(state)} attempts made"
    if note.error:
        text = f"failed in flow {flow!r}: {note.error}; retried at {_at(stalls_at)}, {left}"
        return "failed", text, {"since": liveness.beat_at}
    text = f"committed in flow {flow!r} at {_at(state.committed_at)}, perhaps executed just now; "
    return "fresh", f"{text}recovered at {_at(stalls_at)} unless it moves on, {left}", {}


def _executed(liveness: Liveness, note: Note, flow: str) -> tuple[Why, str, dict[str, Any]]:
    began = (liveness.beat_at or liveness.now) - timedelta(seconds=note.seconds or 0.0)
    stalls_at = liveness.stalls_at
    if stalls_at is None or stalls_at > liveness.now:
        text = f"executed in flow {flow!r} by {note.engine} since {_at(began)}"
        return "executing", text, {"since": began}
    text = (
        f"executed in flow {flow!r} by {note.engine}, which has not been heard of since "
        f"{_at(liveness.beat_at)}; to be recovered since {_at(stalls_at)}"
    )
    return "stalled", text, {"since": stalls_at, "until": None}


def _stalled(
    state: State, stalls_at: datetime, leader: str, *, known: bool
) -> tuple[Why, str, dict[str, Any]]:
    flow = state.transition.to
    changed = {"since": stalls_at, "until": None}
    if not known:
        text = f"stalled since {_at(stalls_at)}: no flow {flow!r} here; another engine may have it"
        return "unknown flow", text, changed
    who = f"{leader} recovers" if leader else "nobody recovers; does a Recoverer run?"
    text = f"stalled in flow {flow!r} since {_at(stalls_at)}: {who}"
    return "stalled", text, changed


def _at(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
