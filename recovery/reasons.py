"""What a state waits for, decided from what the store and an engine know of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from flowstate.dead import is_dead
from flowstate.driver import DelayedState, Liveness
from flowstate.executions.execution import Note
from flowstate.mailboxes.mailbox import Waiting
from flowstate.recovery.dead import read_dead
from flowstate.recovery.policy import attempt, max_attempts
from flowstate.recovery_rules import AGAIN, retry_after, stalls_after
from flowstate.registry import FlowRegistry
from flowstate.retrying import ERROR, failures_of
from flowstate.state import State, Status

__all__ = ["Facts", "PendingTimer", "Reason", "Why", "reason_of"]

Why = Literal[
    "ended",
    "dead",
    "executing",
    "delayed",
    "overdue",
    "started",
    "failed",
    "paused",
    "waiting",
    "unsent",
    "disabled",
    "unknown flow",
    "stalled",
    "fresh",
]
"""Why a state does not move.

``ended`` and ``dead`` (ended by force); ``executing`` by an engine; ``delayed``, and ``overdue``
when no delayer has fired the delay; ``started``, and no engine has taken it yet; ``failed``, and
tried again later; ``paused``; ``waiting`` for a signal; ``unsent`` to any flow; ``disabled``: its
recovery is; ``unknown flow``: this engine does not have the flow in which the state stalled, or to
which it is delayed; ``stalled``, and about to be recovered; ``fresh``: committed a moment ago, and
either executed or lost, which shows when it stalls.
"""


class PendingTimer(Struct, frozen=True):
    """A timer that has not fired.

    Attributes:
        name: of the timer.
        to: the flow that it sends the state to.
        due: when it fires, UTC.
    """

    name: str
    to: str
    due: datetime


class Facts(Struct, frozen=True):
    """What is known of a state.

    Attributes:
        state: the latest revision.
        liveness: of that revision.
        note: of its last heartbeat.
        delay: the earliest one of that revision, if it was found.
        waiting: for which signals it waits.
        messages: how many are kept for it, none of which it waits for.
        leader: the engine that recovers.
        flows: of the engine that was asked.
        has_delayer: whether that engine fires delays.
        most_failures: how often its flow is executed under its policy, if that is known here.
        timers: the earliest first.
        is_superseded: whether this process executes an older revision.
    """

    state: State
    liveness: Liveness
    note: Note
    flows: FlowRegistry
    delay: DelayedState | None = None
    waiting: Waiting | None = None
    messages: int = 0
    leader: str = ""
    has_delayer: bool = False
    most_failures: int = 0
    timers: Sequence[PendingTimer] = ()
    is_superseded: bool = False

    @property
    def flow(self) -> str:
        """In which the state is."""
        return self.state.transition.to

    @property
    def failures(self) -> int:
        """Of its flow in this step, under a policy."""
        return failures_of(self.state.transition.annotations)

    @property
    def is_executed(self) -> bool:
        """Whether the last heartbeat still says so. That of a delay outlives an execution."""
        active, beat_at = self.state.status is Status.ACTIVE, self.liveness.beat_at
        if self.note.seconds is None or beat_at is None:
            return False
        if active:
            kept = stalls_after(self.state)
        else:  # By a delay that has fired and is not committed.
            kept = retry_after(self.state) if self.liveness.delay_due is not None else None
        return kept is not None and beat_at + kept > self.liveness.now


class Reason(Struct, frozen=True):
    """Why a state does not move.

    Attributes:
        why: in a word.
        text: in words for people.
        since: how long it has been so.
        until: when something is about to happen.
        to: the flow that the state goes to then; empty where it stays in its own.
    """

    why: Why
    text: str
    since: datetime | None = None
    until: datetime | None = None
    to: str = ""


# The first line that fits says it; "-" fits all.
#
# status  executed  delay                       flow             stalls        why
# ended   -         -                           -                -             ended, dead
# -       yes       -                           -                -             executing
# active  -         later, after a failure (*)  -                -             failed
# active  -         due, of a start (*)         -                -             started
# -       -         later                       -                -             delayed
# -       -         due                         its own: known   -             overdue
# -       -         due                         its own: not so  -             overdue, without a
#                                                                              delayer here; else
#                                                                              unknown flow
# paused  -         none                        -                -             waiting, paused
# active  -         none                        never sent       -             unsent
# active  -         none                        -                never         disabled
# active  -         none                        not known        has           unknown flow
# active  -         none                        known            has           stalled
# active  -         none                        -                will, after   failed
#                                                                it raised
# active  -         none                        -                will          fresh
#
# (*) Of those that let the state go on in its own flow.
def reason_of(facts: Facts) -> Reason:
    """Decide why a state does not move."""
    return _with_more(facts, _of(facts))


def _of(facts: Facts) -> Reason:
    state, liveness = facts.state, facts.liveness
    if state.status is Status.ENDED:
        return _ended(state)
    if facts.is_executed:
        return _executing(facts)
    if liveness.delay_due is not None:
        return _delayed(facts, liveness.delay_due)
    return _paused(facts) if state.status is Status.PAUSED else _active(facts)


def _active(facts: Facts) -> Reason:
    state, liveness = facts.state, facts.liveness
    if not facts.flow:
        text = "active, but never sent to a flow"
        return Reason("unsent", text, state.committed_at)
    if liveness.stalls_at is None:
        text = f"in flow {facts.flow!r}, and its recovery is disabled"
        return Reason("disabled", text, state.committed_at)
    if liveness.stalls_at <= liveness.now:
        return _stalled(facts, liveness.stalls_at)
    return _fresh(facts, liveness.stalls_at)


def _ended(state: State) -> Reason:
    if not is_dead(state):
        text = f"ended in flow {state.transition.to!r} at {_at(state.committed_at)}"
        return Reason("ended", text, state.committed_at)
    dead = read_dead(state)
    text = f"ended by force at {_at(dead.at)}: {dead.reason}"
    if dead.error:
        text += f"; the last one failed: {dead.error}"
    return Reason("dead", text, dead.at)


def _executing(facts: Facts) -> Reason:
    beat_at = facts.liveness.beat_at or facts.liveness.now
    began = beat_at - timedelta(seconds=facts.note.seconds or 0.0)
    text = f"executed in flow {facts.flow!r} by {facts.note.engine} since {_at(began)}"
    return Reason("executing", text, began, facts.liveness.stalls_at)


def _delayed(facts: Facts, due: datetime) -> Reason:
    state, delay, is_due = facts.state, facts.delay, due <= facts.liveness.now
    goes_on = delay is not None and AGAIN in delay.annotations and state.status is Status.ACTIVE
    if goes_on and is_due and not facts.failures:
        return _started(facts, due)
    if goes_on and not is_due and facts.failures:
        text = f"{_failed(facts)}; tried again at {_at(due)}{_unless_known(facts, facts.flow)}"
        return Reason("failed", text, state.committed_at, due, facts.flow)
    to = "" if delay is None else delay.to
    where = f" to flow {to!r}" if to else ""
    before = "paused, and " if state.status is Status.PAUSED else ""
    before = f"{_failed(facts)}; " if goes_on and facts.failures else before
    lack = _unless_known(facts, to) if to else ""
    if not is_due:
        text = f"{before}delayed{where} until {_at(due)}{lack}"
        if facts.note.error:
            text += f"; the last execution failed: {facts.note.error}"
        return Reason("delayed", text, state.committed_at, due, to)
    text = f"{before}its delay{where} has been due since {_at(due)}{lack}"
    if not facts.has_delayer:
        engine = " in an engine that has this flow" if lack else ""
        return Reason("overdue", f"{text}; does a Delayer run{engine}?", due, None, to)
    return Reason("unknown flow" if lack else "overdue", text, due, None, to)


def _started(facts: Facts, due: datetime) -> Reason:
    text = f"sent to flow {facts.flow!r} at {_at(due)}, and no engine has taken it yet"
    text += _unless_known(facts, facts.flow)
    return Reason("started", f"{text}; does a Delayer run in one that has it?", due, None)


def _failed(facts: Facts) -> str:
    failures, most = facts.failures, facts.most_failures
    once = "once" if failures == 1 else f"{failures} times"
    times = f"{failures} of {most} times" if most else once
    error = facts.state.transition.annotations.get(ERROR, "")
    return f"failed {times} in flow {facts.flow!r}, at last with {error}"


def _paused(facts: Facts) -> Reason:
    since = facts.state.committed_at
    if facts.waiting is None:
        text = f"paused in flow {facts.flow!r} since {_at(since)}"
        return Reason("paused", text, since)
    names, to = " or ".join(map(repr, facts.waiting.names)), facts.waiting.to
    text = f"waits for a signal {names} since {_at(since)}, to go to flow {to!r}"
    if facts.messages:
        text += f"; others are kept for it: {facts.messages}"
    return Reason("waiting", f"{text}{_unless_known(facts, to)}", since, None, to)


def _stalled(facts: Facts, at: datetime) -> Reason:
    flow, note = facts.flow, facts.note
    if not facts.flows.can_run(flow):
        text = f"stalled since {_at(at)}{_unless_known(facts, flow)}"
        return Reason("unknown flow", text, at)
    by = f"{facts.leader} recovers" if facts.leader else _NO_LEADER
    if note.handed_over:
        text = f"handed over by {note.engine}, which stopped, in flow {flow!r}: {by}"
    elif note.seconds is None:
        text = f"stalled in flow {flow!r} since {_at(at)}: {by}"
    else:
        heard = f"by {note.engine}, whose last heartbeat came at {_at(facts.liveness.beat_at)}"
        text = f"executed in flow {flow!r} {heard}; stalled since {_at(at)}: {by}"
    return Reason("stalled", text, at)


_NO_LEADER = "no process recovers; does a Recoverer run?"


def _fresh(facts: Facts, stalls_at: datetime) -> Reason:
    state, flow, note = facts.state, facts.flow, facts.note
    left = f"{attempt(state)} of {max_attempts(state)} attempts made"
    lack = _unless_known(facts, flow)
    if note.error:
        text = f"failed in flow {flow!r}: {note.error}; retried at {_at(stalls_at)}, {left}{lack}"
        return Reason("failed", text, facts.liveness.beat_at, stalls_at)
    text = f"committed in flow {flow!r} at {_at(state.committed_at)}, perhaps executed just now; "
    text += f"recovered at {_at(stalls_at)} unless it moves on, {left}{lack}"
    return Reason("fresh", text, state.committed_at, stalls_at)


def _with_more(facts: Facts, reason: Reason) -> Reason:
    """Add what else is about to happen to the state, or goes on."""
    text = reason.text
    for timer in facts.timers:
        verb = "fires" if timer.due > facts.liveness.now else "has been due since"
        when = f"at {_at(timer.due)}" if verb == "fires" else _at(timer.due)
        text += f"; timer {timer.name!r} to flow {timer.to!r} {verb} {when}"
        text += _unless_known(facts, timer.to)
    if facts.is_superseded:
        text += "; an execution here still goes on from an older revision, and is superseded"
    return replace(reason, text=text)


def _unless_known(facts: Facts, flow: str) -> str:
    if not flow or facts.flows.can_run(flow):
        return ""
    if flow in facts.flows:
        return f": flow {flow!r} is only declared here; another engine has it"
    return f": no flow {flow!r} here; another engine may have it"


def _at(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
