"""Why a state does not move: in words, and as data."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from flowstate.delayer import has_delayer
from flowstate.driver import DueQuery, Liveness
from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.execution import Note, read_note
from flowstate.limits import check_id
from flowstate.recovery.dead import is_dead, read_dead
from flowstate.recovery.lease import HOLDER, lease_id
from flowstate.recovery.policy import attempt, is_disabled, max_attempts
from flowstate.recovery.recoverer import lease_name
from flowstate.retrying import ERROR, failures_of
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
later; ``fresh``: committed a moment ago, and either executed or lost, which shows when it stalls;
``disabled``: its recovery is; ``unknown flow``: this engine does not have the flow in which the
state stalled, or to which it is delayed; ``stalled``, and about to be recovered.
"""

ATTEMPTS_TO_READ = 5
PAGES_TO_READ = 5
PAGE = 1_000
INSTANT = timedelta(microseconds=1)
Reason = tuple[Why, str, dict[str, Any]]
"""In a word, in words for people, and which facts are others because of it."""


class Explanation(Struct, frozen=True):
    """Why a state does not move.

    Attributes:
        why: in a word.
        text: in words for people.
        state: the latest revision.
        since: how long it has been so, by the store's clock, as far as that is known.
        until: when something is about to happen: the delay fires, or the state stalls.
        engine: the name of the one that executes it, or did.
        attempts: how many times it has been executed again since its last progress.
        max_attempts: how many times it may be executed again.
        failures: how many times its flow has failed under its policy, in this step.
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
    failures: int = 0


async def explain(engine: Engine, id: str, *, group: str = "default") -> Explanation:
    """Explain why a state does not move; reads a few rows, and changes nothing.

    Args:
        engine: the open engine whose store and flows count.
        id: of the state.
        group: of the recoverers.

    Raises:
        StateNotFoundError: there is no such state.
        DamagedRevisionError: its latest revision cannot be read.
    """
    state, liveness = await _read(engine, check_id("id", id))
    if state.status is Status.ENDED:
        return _ended(state)
    note = read_note(liveness.note)
    lease = await engine.driver.get_state(lease_id(lease_name(group)))
    leader = "" if lease is None else lease.annotations.get(HOLDER, "")
    why, text, changed = await _why(engine, state, liveness, note, leader)
    facts: dict[str, Any] = {
        "until": liveness.stalls_at,
        "engine": note.engine,
        "attempts": attempt(state),
        "max_attempts": max_attempts(state),
        "failures": failures_of(state.transition.annotations),
        "error": note.error or state.transition.annotations.get(ERROR, ""),
        "leader": leader,
        "since": state.committed_at,
    }
    return Explanation(why=why, text=text, state=state, **(facts | changed))


async def _read(engine: Engine, id: str) -> tuple[State, Liveness]:
    """Return a latest revision and what is known of that very revision."""
    for _ in range(ATTEMPTS_TO_READ):
        (liveness,) = await engine.driver.get_liveness([id])
        if liveness is None:
            break
        state = await engine.driver.get_state(id, liveness.rev)
        if state is not None:
            return state, liveness
    raise StateNotFoundError(f"no state {id!r}")


def _ended(state: State) -> Explanation:
    if not is_dead(state):
        text = f"ended in flow {state.transition.to!r} at {_at(state.committed_at)}"
        return Explanation("ended", text, state, since=state.committed_at)
    dead = read_dead(state)
    text = f"ended by force at {_at(dead.at)}: {dead.reason}"
    if dead.error:
        text += f"; the last one failed: {dead.error}"
    return Explanation(
        "dead",
        text,
        state,
        since=dead.at,
        attempts=dead.attempts,
        error=dead.error,
        failures=dead.failures,
    )


async def _why(engine: Engine, state: State, liveness: Liveness, note: Note, leader: str) -> Reason:
    flow = state.transition.to
    if liveness.delay_due is not None and note == Note():
        return await _delayed(engine, state, liveness.delay_due, liveness.now)
    if state.status is Status.PAUSED:
        text = f"paused in flow {flow!r} since {_at(state.committed_at)}"
        return "paused", text, {"until": None}
    if not flow:
        return "unsent", "active, but never sent to a flow", {}
    if liveness.stalls_at is not None and liveness.stalls_at <= liveness.now:
        why, text = _stalled(engine, flow, liveness, note, leader)
        return why, text, {"since": liveness.stalls_at, "until": None}
    if note.seconds is not None and liveness.beat_at is not None:
        began = liveness.beat_at - timedelta(seconds=note.seconds)
        text = f"executed in flow {flow!r} by {note.engine} since {_at(began)}"
        return "executing", text, {"since": began}
    return _waiting(state, liveness, note)


async def _delayed(engine: Engine, state: State, due: datetime, now: datetime) -> Reason:
    before = "paused, and " if state.status is Status.PAUSED else ""
    if due > now and not before and (failures := failures_of(state.transition.annotations)):
        times = "once" if failures == 1 else f"{failures} times"
        error = state.transition.annotations.get(ERROR, "")
        text = f"failed {times} in flow {state.transition.to!r}, at last with {error}"
        return "failed", f"{text}; tried again at {_at(due)}", {"until": due}
    if due > now:
        return "delayed", f"{before}delayed until {_at(due)}", {"until": due}
    flow = await _flow_of_delay(engine, state, due)
    changed = {"since": due, "until": None}
    where = "" if flow is None else f" to flow {flow!r}"
    text = f"{before}its delay{where} has been due since {_at(due)}"
    if flow is None or engine.can_execute(flow):
        return "overdue", f"{text}; does a Delayer run?", changed
    if has_delayer(engine):
        return "unknown flow", f"{text}: no flow {flow!r} here; another engine may have it", changed
    return "overdue", f"{text}; does a Delayer run in an engine that has this flow?", changed


async def _flow_of_delay(engine: Engine, state: State, due: datetime) -> str | None:
    """Return the flow that the earliest delay of a state goes to, if it is found soon."""
    query = DueQuery("delay", until=due, after=(due - INSTANT, ""), limit=PAGE)
    for _ in range(PAGES_TO_READ):
        page = await engine.driver.get_due(query)
        for delay in page.due:
            if (delay.state.id, delay.state.rev) == (state.id, state.rev):
                return delay.to
        if not page.more:
            break
        query = replace(query, after=page.end)
    return None


def _waiting(state: State, liveness: Liveness, note: Note) -> Reason:
    flow, stalls_at = state.transition.to, liveness.stalls_at
    if is_disabled(state):
        return "disabled", f"in flow {flow!r}, and its recovery is disabled", {}
    left = f"{attempt(state)} of {max_attempts(state)} attempts made"
    if note.error:
        text = f"failed in flow {flow!r}: {note.error}; retried at {_at(stalls_at)}, {left}"
        return "failed", text, {"since": liveness.beat_at}
    text = f"committed in flow {flow!r} at {_at(state.committed_at)}, perhaps executed just now; "
    return "fresh", f"{text}recovered at {_at(stalls_at)} unless it moves on, {left}", {}


def _stalled(
    engine: Engine, flow: str, liveness: Liveness, note: Note, leader: str
) -> tuple[Why, str]:
    at, by = _at(liveness.stalls_at), f"{leader} recovers"
    if not engine.can_execute(flow):
        return (
            "unknown flow",
            f"stalled since {at}: no flow {flow!r} here; another engine may have it",
        )
    if not leader:
        by = "no process recovers; does a Recoverer run?"
    if note.handed_over:
        return "stalled", f"handed over by {note.engine}, which stopped, in flow {flow!r}: {by}"
    if note.seconds is None:
        return "stalled", f"stalled in flow {flow!r} since {at}: {by}"
    heard = f"by {note.engine}, whose last heartbeat came at {_at(liveness.beat_at)}"
    return "stalled", f"executed in flow {flow!r} {heard}; stalled since {at}: {by}"


def _at(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
