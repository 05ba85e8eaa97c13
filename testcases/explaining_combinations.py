"""Whatever a state has of all that there is, why it does not move is explained."""

import itertools
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, cast

from msgspec import Raw, Struct

from flowstate.dead import DEAD, marks_of
from flowstate.driver import Heartbeat, NewDelay, NewTimer, Writes
from flowstate.engine import Engine
from flowstate.executions.execution import Note
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.mailboxes.mailbox import RECEIVE, Mailbox, Message, Waiting, mailbox_id
from flowstate.recovery import Explanation, explain
from flowstate.recovery_rules import AGAIN, DISABLED, RETRY_AFTER
from flowstate.registry import FlowRegistry
from flowstate.retrying import ERROR, FAILURES, RetryPolicy
from flowstate.state import State, Status, Timer, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, stored

__all__ = ["CASES"]

HOUR = timedelta(hours=1)
SHORT, LONG = 0.02, 120.0  # Seconds.
BATCH = 60

STATUSES = ("active", "paused", "waiting", "waiting with messages", "ended", "dead")
DELAYS = ("", "later", "later to gone", "due", "due to gone", "again later", "again due")
FAILED = (0, 2)
FLOWS = ("plain", "policy", "old name", "declared", "gone", "")
BEATS = ("", "executing", "raised", "handed over")
PACES = ("long", "short", "disabled")
TIMERS = (False, True)
ALL = (STATUSES, DELAYS, FAILED, FLOWS, BEATS, PACES, TIMERS)


class Combination(Struct, frozen=True):
    """What a state has.

    Attributes:
        status: also whether it waits for a signal, with messages of other names that are kept.
        delay: what its revision has, and whether that goes on in the same flow.
        failures: of its flow.
        flow: in which it is.
        beat: what the last heartbeat said.
        pace: when it stalls; with "short" it has.
        timers: whether it has two, one of which is due, to a flow that is not here.
    """

    status: str
    delay: str
    failures: int
    flow: str
    beat: str
    pace: str
    timers: bool

    @property
    def is_paused(self) -> bool:
        return self.status in ("paused", "waiting", "waiting with messages")

    @property
    def is_possible(self) -> bool:
        """Whether it says something: what was never sent cannot go on in its flow."""
        return bool(self.flow) or not (self.delay.startswith("again") or self.failures)


def _why(c: Combination) -> str:  # noqa: C901, PLR0911 - a table of what is right
    """Return what is right."""
    if c.status in ("ended", "dead"):
        return c.status
    if c.beat == "executing":
        if not c.is_paused and c.flow and c.pace == "long":
            return "executing"
        if c.is_paused and c.delay and c.pace != "short":
            return "executing"  # By a delay that has fired and is not committed.
    if c.delay == "again later" and c.failures and not c.is_paused:
        return "failed"
    if c.delay == "again due" and not c.failures and not c.is_paused:
        return "started"
    if c.delay:
        return "overdue" if "due" in c.delay else "delayed"
    if c.is_paused:
        return "paused" if c.status == "paused" else "waiting"
    if not c.flow:
        return "unsent"
    if c.pace == "disabled":
        return "disabled"
    if c.pace == "short" or c.beat == "handed over":
        return "unknown flow" if c.flow in ("declared", "gone") else "stalled"
    return "failed" if c.beat == "raised" else "fresh"


def _told(c: Combination) -> Iterator[str]:
    """Return what the words have to have."""
    why = _why(c)
    yield from _told_of_flows(c, why)
    if why == "failed" and c.delay:
        yield f"failed 2 of 5 times in flow {c.flow!r}" if c.flow == "policy" else "failed 2 times"
        yield "OSError: no net"
    if why == "failed" and c.beat == "raised" and not c.delay:
        yield "ValueError: no luck"
    if why == "waiting":
        yield "a signal 'paid' or 'cancelled'"
        yield "to go to flow 'plain'"
    if why == "waiting" and c.status == "waiting with messages":
        yield "others are kept for it: 2"
    if why == "executing":
        yield "by engine-1"
    if why == "stalled" and c.beat == "handed over":
        yield "handed over by engine-1"
    if c.timers and c.status not in ("ended", "dead"):
        yield "; timer 'alarm' to flow 'gone' has been due since"
        yield "; timer 'reminder' to flow 'plain' fires at"


def _told_of_flows(c: Combination, why: str) -> Iterator[str]:
    """Return what has to be said of flows that are not here."""
    if why in ("overdue", "delayed") and c.delay.endswith("gone"):
        yield "no flow 'gone' here"
    if why in ("started", "unknown flow", "fresh") and c.flow == "gone":
        yield "no flow 'gone' here"
    if why in ("started", "unknown flow", "fresh") and c.flow == "declared":
        yield "flow 'declared' is only declared here"


def _flows() -> FlowRegistry:
    flows = FlowRegistry()
    flows.set("plain", end)
    flows.set("policy", end, retry=RetryPolicy(attempts=5))
    flows.alias("old name", "plain")
    flows.declare("declared")
    return flows


def _state(id: str, c: Combination) -> State:
    notes: dict[str, str] = {}
    if c.failures:
        notes |= {FAILURES: str(c.failures), ERROR: "OSError: no net"}
    if c.status.startswith("waiting"):
        notes[RECEIVE] = Waiting(("paid", "cancelled"), "plain").encode()
    rules: dict[str, str] = {DISABLED: ""} if c.pace == "disabled" else {}
    if c.pace == "short":
        rules[RETRY_AFTER] = str(SHORT)
    timers = {"alarm": Timer("gone", after=timedelta(0)), "reminder": Timer("plain", after=HOUR)}
    status = Status.PAUSED if c.is_paused else Status.ACTIVE
    state = State(
        id,
        status=Status.ENDED if c.status in ("ended", "dead") else status,
        annotations=FrozenDict(rules),
        transition=Transition(c.flow, FrozenDict(notes)),
        timers=FrozenDict(timers) if c.timers and c.status != "ended" else EMPTY,
    )
    if c.status != "dead":
        return state
    marks = FrozenDict(marks_of(state, "made no progress", "OSError: no net"))
    return State(
        id,
        labels=FrozenDict(DEAD),
        status=Status.ENDED,
        annotations=state.annotations,
        transition=Transition(c.flow, marks),
    )


def _delay(state: State, put: int, c: Combination) -> list[NewDelay]:
    if not c.delay:
        return []
    again = c.delay.startswith("again")
    to = c.flow if again else "gone" if c.delay.endswith("gone") else "plain"
    notes = FrozenDict({AGAIN: ""}) if again else FrozenDict[str, str]()
    after = timedelta(0) if "due" in c.delay else HOUR
    return [NewDelay(state, to, notes, None, after, commit=not again, body="", put=put)]


def _timers(state: State, put: int) -> list[NewTimer]:
    return [
        NewTimer(f"{state.id} {name}", name, put, timer.to, None, timer.after, "")
        for name, timer in state.timers.items()
    ]


def _mailbox(id: str) -> State:
    messages = tuple(Message("other", Raw(b"1")) for _ in range(2))
    return Mailbox(messages).stored_in(State(mailbox_id(id)))


async def _commit(h: Harness, states: Sequence[State], found: Sequence[Combination]) -> list[State]:
    """Store states as they are, with their delays and timers; return what the store has."""
    delays = [_delay(state, n, c) for n, (state, c) in enumerate(zip(states, found, strict=True))]
    timers = [_timers(state, n) for n, state in enumerate(states)]
    boxes = [
        _mailbox(state.id)
        for state, c in zip(states, found, strict=True)
        if c.status == "waiting with messages"
    ]
    writes = Writes(
        f"token {states[0].id}",
        (*states, *boxes),
        delays=tuple(itertools.chain(*delays)),
        timers=tuple(itertools.chain(*timers)),
    )
    return [*await stored(h, writes)][: len(states)]


def _beats(states: Sequence[State], found: Sequence[Combination]) -> list[Heartbeat]:
    beats = []
    for state, c in zip(states, found, strict=True):
        seconds: float | None = SHORT if c.pace == "short" else LONG
        note = Note("engine-1", 3.0)
        if c.beat == "raised":
            seconds, note = None, Note("engine-1", None, "ValueError: no luck")
        if c.beat == "handed over":
            seconds, note = 0.0, Note("engine-1", handed_over=True)
        if c.beat:
            beats.append(Heartbeat(state.id, state.rev, seconds, note.encode()))
    return beats


def _pairwise(found: Sequence[Combination]) -> list[Combination]:
    """Return a few, in which each value of one field is there with each value of another."""
    chosen, seen = [], set[tuple[object, ...]]()
    for c in random.Random(0).sample(found, len(found)):  # noqa: S311 - no secret
        values = [(name, getattr(c, name)) for name in Combination.__struct_fields__]
        pairs = set(itertools.combinations(values, 2))
        if not pairs <= seen:
            seen |= cast(set[tuple[object, ...]], pairs)
            chosen.append(c)
    return chosen


def _combinations(h: Harness) -> list[Combination]:
    """Return all of them where they cost little, else as many as show each pair."""
    found = [Combination(*values) for values in itertools.product(*ALL)]
    found = [c for c in found if c.is_possible]
    return _pairwise(found) if h.capabilities.durable else found


def _check(c: Combination, found: Explanation) -> None:
    check(found.why, _why(c), f"{c}: {found.text}")
    for words in _told(c):
        check(words in found.text, True, f"{c}: {words!r} in {found.text!r}")
    facts: dict[str, Any] = {}
    if c.status not in ("ended", "dead"):
        facts["max_failures"] = 5 if c.flow == "policy" else 0
        facts["failures"] = c.failures
        names = ("paid", "cancelled") if c.status.startswith("waiting") else ()
        facts["signals"] = names
        facts["timers"] = [("alarm", "gone"), ("reminder", "plain")] if c.timers else []
    if found.why in ("delayed", "failed") and c.delay:
        facts["until"] = found.state.delayed_until
    if found.why in ("overdue", "started", "paused", "waiting", "stalled", "unsent"):
        facts["until"] = None
    told = {name: getattr(found, name) for name in facts}
    if "timers" in told:
        told["timers"] = [(timer.name, timer.to) for timer in found.timers]
    check(told, facts, f"{c}: facts")


@case()
async def explanations_of_all_combinations(h: Harness) -> None:
    """G11: status, delay, failures, flow, heartbeat, recovery, signals and timers."""
    combinations = _combinations(h)
    by_id = {f"state {number}": c for number, c in enumerate(combinations)}
    for ids in _batches([*by_id]):
        found = [by_id[id] for id in ids]
        states = [_state(id, by_id[id]) for id in ids]
        states = await _commit(h, states, found)
        if beats := _beats(states, found):
            check({*await h.driver.beat(beats)}, {True}, "beats")
        await h.clock.sleep(0.001)  # Of thousands that are due at one moment, none is looked for.
    await h.clock.sleep(0.1)
    async with Engine(h.driver, _flows(), clock=h.clock) as engine:
        for id, c in by_id.items():
            _check(c, await explain(engine, id))


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


CASES: tuple[Case, ...] = (explanations_of_all_combinations,)
