"""Why a state does not move: in words, and as data."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from flowstate.delayer import has_delayer
from flowstate.driver import DelayedState, DueQuery, Liveness
from flowstate.engine import Engine
from flowstate.errors import CodecError, StateNotFoundError, UnknownFlowError
from flowstate.executed import executed_in
from flowstate.executions.execution import read_note
from flowstate.ground.limits import check_id
from flowstate.mailboxes.mailbox import Mailbox, Waiting, mailbox_id, waiting_of
from flowstate.recovery.dead import is_dead, read_dead
from flowstate.recovery.lease import HOLDER, lease_id
from flowstate.recovery.policy import attempt, max_attempts
from flowstate.recovery.reasons import Facts, PendingTimer, Why, reason_of
from flowstate.recovery.recoverer import lease_name
from flowstate.retrying import ERROR, read_override
from flowstate.state import State, Status

__all__ = ["Explanation", "PendingTimer", "Why", "explain"]

ATTEMPTS_TO_READ = 5
PAGES_TO_READ = 5
PAGE = 1_000
INSTANT = timedelta(microseconds=1)


class Explanation(Struct, frozen=True):
    """Why a state does not move.

    Attributes:
        why: in a word; see :data:`Why`.
        text: in words for people.
        state: the latest revision.
        since: how long it has been so, by the store's clock, as far as that is known.
        until: when something is about to happen: the delay fires, or the state stalls.
        engine: the name of the one that executes it, or did.
        attempts: how many times it has been executed again since its last progress.
        max_attempts: how many times it may be executed again.
        failures: how many times its flow has failed under its policy, in this step.
        max_failures: how many times it may fail; 0 when this engine does not know a policy.
        error: what the last execution raised, as far as that is known.
        leader: the engine that recovers, as the store says; empty when none does.
        to: the flow that the delay or the awaited signal sends it to.
        timers: those that have not fired, the earliest first.
        signals: names of those that it waits for.
        superseded: whether this process still executes an older revision.
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
    max_failures: int = 0
    to: str = ""
    timers: Sequence[PendingTimer] = ()
    signals: Sequence[str] = ()
    superseded: bool = False


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
    facts = await _facts(engine, state, liveness, group)
    reason = reason_of(facts)
    found = Explanation(
        why=reason.why,
        text=reason.text,
        state=state,
        since=reason.since,
        until=reason.until,
        to=reason.to,
        timers=facts.timers,
        superseded=facts.is_superseded,
    )
    if state.status is not Status.ENDED:
        return replace(
            found,
            engine=facts.note.engine,
            attempts=attempt(state),
            max_attempts=max_attempts(state),
            error=facts.note.error or state.transition.annotations.get(ERROR, ""),
            leader=facts.leader,
            failures=facts.failures,
            max_failures=facts.most_failures,
            signals=() if facts.waiting is None else facts.waiting.names,
        )
    if is_dead(state):
        dead = read_dead(state)
        attempts, failures = dead.attempts, dead.failures
        return replace(found, attempts=attempts, failures=failures, error=dead.error)
    return found


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


async def _facts(engine: Engine, state: State, liveness: Liveness, group: str) -> Facts:
    facts = Facts(
        state=state,
        liveness=liveness,
        note=read_note(liveness.note),
        flows=engine.flows,
        has_delayer=has_delayer(engine),
        is_superseded=executed_in(engine.driver.store_id).is_behind(state),
    )
    if state.status is Status.ENDED:
        return facts
    lease = await engine.driver.get_state(lease_id(lease_name(group)))
    waiting = _waiting_of(state)
    return replace(
        facts,
        leader="" if lease is None else lease.annotations.get(HOLDER, ""),
        delay=await _delay_of(engine, state, liveness.delay_due),
        waiting=waiting,
        messages=0 if waiting is None else await _count_messages(engine, state.id),
        most_failures=_most_failures(engine, state),
        timers=_timers_of(state),
    )


async def _delay_of(engine: Engine, state: State, due: datetime | None) -> DelayedState | None:
    """Return the earliest delay of a revision, if it is found soon."""
    if due is None:
        return None
    query = DueQuery("delay", until=due, after=(due - INSTANT, ""), limit=PAGE)
    for _ in range(PAGES_TO_READ):
        page = await engine.driver.get_due(query)
        for delay in page.due:
            # A timer comes with the latest revision as well.
            if (delay.state.id, delay.state.rev, delay.timer) == (state.id, state.rev, ""):
                return delay
        if not page.more:
            break
        query = replace(query, after=page.end)
    return None


def _waiting_of(state: State) -> Waiting | None:
    try:
        return waiting_of(state)
    except CodecError:
        return None  # Then it is a paused state, as any other.


async def _count_messages(engine: Engine, id: str) -> int:
    try:
        return len(Mailbox.of(await engine.driver.get_state(mailbox_id(id))).messages)
    except CodecError:
        return 0


def _most_failures(engine: Engine, state: State) -> int:
    try:
        policy = engine.flows.runnable(state.transition.to).policy.of(state.annotations)
    except UnknownFlowError:
        return read_override(state.annotations).attempts or 0
    return 0 if policy.retry is None else policy.retry.attempts


def _timers_of(state: State) -> Sequence[PendingTimer]:
    timers = [
        PendingTimer(name, timer.to, due)
        for name, timer in state.timers.items()
        if (due := state.timer_due(name)) is not None
    ]
    return tuple(sorted(timers, key=lambda timer: (timer.due, timer.name)))
