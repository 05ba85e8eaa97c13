"""What random programs are made of: reads, and what is refused."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    GetDelayedStates,
    GetState,
    GetStates,
    Pause,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data, checksum_of
from flowstate.driver import DelayedState, DueKind, DueQuery, StateQuery
from flowstate.errors import (
    DataNotFoundError,
    InvalidCommandError,
    InvalidInputError,
    StateNotFoundError,
    UnknownFlowError,
)
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_PAGE
from flowstate.log.reading import label_terms
from flowstate.state import State, Status
from flowstate.testing.programs.world import FLOWS, World, outcome
from flowstate.testing.programs.writes import BLOBS, IDS, LABELS, Operation, likely

__all__ = ["READING", "inspect"]

KINDS: tuple[DueKind, ...] = ("stall", "idle")
REMEMBERED_PAGES = 20
CHECKSUMS = {checksum_of(Data(blob)) for blob in BLOBS}
LIMITS = (1, 2, 7, 100, MAX_PAGE)
MOST_PAGES = 8  # Of a query; a server takes its time for each.


def _labels(rng: Random) -> Any:
    """Return an OR of ANDs."""
    pairs = [(key or "empty", value) for key, value in LABELS] + [("kind", "nothing")]
    terms = [dict(rng.sample(pairs, rng.choice((1, 1, 2)))) for _ in range(rng.randint(0, 3))]
    return terms[0] if len(terms) == 1 and likely(rng, 0.5) else terms


def _time(w: World, rng: Random) -> datetime | None:
    """Return about the time of a revision, or none."""
    state = w.model.log.get(rng.randint(0, w.model.head))
    if state is None or state.committed_at is None or likely(rng, 0.7):
        return None
    return state.committed_at + timedelta(microseconds=rng.choice((-1, 0, 0, 1)))


async def get(w: World, rng: Random) -> None:
    """Read a state by its id, by its id and a revision, or by labels."""
    rev = rng.choice((None, None, rng.randint(0, w.model.head + 1)))
    known = w.model.log.get(rev or 0)
    command = GetState(known.id if known and likely(rng, 0.7) else rng.choice(IDS), rev)
    if likely(rng, 0.3):
        labels = _labels(rng)
        command = GetState(labels=labels or [{"kind": "x"}])
    w.trace.append(f"do({command!r})")
    found = await outcome(w.engine.do(command))
    expected = await outcome(_expected(w, command))
    w.same(found, expected, repr(command))


async def _expected(w: World, command: GetState) -> State:
    if command.id is not None:
        return w.model.get(command.id, command.rev)
    states = w.model.find(GetStates(command.labels))
    if not states:
        raise StateNotFoundError("there is none")
    return states[-1]


async def find(w: World, rng: Random) -> None:
    """Read all pages of a query, with any combination of filters."""
    start = rng.randrange(6)
    head = w.model.head
    since = rng.randint(max(0, w.model.floor - 2), head) if start == 0 else None
    if start == 1:
        since = rng.choice((0, head, head + 1, 2**63 - 1))
    id = rng.choice(IDS[: rng.choice((3, len(IDS)))]) if likely(rng, 0.3) else None
    command = GetStates(
        _labels(rng) if likely(rng, 0.7 if id is None else 0.2) else {},
        since,
        since_latest=start == 2,  # noqa: PLR2004 - one way in six
        since_time=_time(w, rng),
        latest_only=likely(rng, 0.3),
        status=rng.choice((None, None, *Status)),
        committed_before=_time(w, rng),
        limit=max(rng.choice(LIMITS), -(-len(w.model.log) // MOST_PAGES)),
        id=id,
    )
    await _read(w, rng, command)


async def find_on(w: World, rng: Random) -> None:
    """Go on from a page that was read long ago."""
    if w.pages:
        await _read(w, rng, rng.choice(w.pages))


async def _read(w: World, rng: Random, command: GetStates) -> None:
    w.trace.append(f"read all of {command!r}")
    try:
        expected = w.model.find(command)
    except Exception as error:  # noqa: BLE001 - it is what the store must raise
        w.same(await outcome(w.engine.do(command)), error, repr(command))
        return
    found: list[State] = []
    cursor = command.since_rev or 0
    while True:
        page = await w.engine.do(command)
        found += page.states
        if len(page.states) > command.limit or page.cursor < cursor:
            raise AssertionError(f"{command!r}: a page of {len(page.states)} up to {page.cursor}")
        if not page.more or found != expected[: len(found)]:
            break
        command, cursor = page.next, page.cursor
        if likely(rng, 0.2):
            w.pages = [*w.pages[-REMEMBERED_PAGES:], command]
    w.same(found, expected, repr(command))
    w.same(page.cursor, w.model.head, f"the last cursor of {command!r}")


async def delays(w: World, rng: Random) -> None:
    """Read all pages of delays: of those that are due, of those up to a time, or of all."""
    await _read_due(w, _due_query(rng, "delay", w.model.delayed()))


async def stalled(w: World, rng: Random) -> None:
    """Read all pages of what stalls, in the same ways."""
    await _read_due(w, _due_query(rng, "stall", w.model.stalled()))


async def idle(w: World, rng: Random) -> None:
    """Read all pages of what never stalls, in the same ways."""
    await _read_due(w, _due_query(rng, "idle", w.model.idle()))


async def count(w: World, rng: Random) -> None:
    """Count states by labels and status."""
    query = GetStates(_labels(rng) if likely(rng, 0.7) else {}, status=rng.choice([None, *Status]))
    w.trace.append(f"count({query!r})")
    labels = label_terms(query.labels)
    found = await w.driver.count(StateQuery(labels=labels, status=query.status))
    w.same(found, w.model.count(query), f"how many answer {query!r}")


def _due_query(rng: Random, kind: DueKind, there: Sequence[DelayedState]) -> DueQuery:
    some = tuple(rng.sample([*FLOWS, "nowhere"], rng.randint(0, 3)))
    return DueQuery(
        kind,
        flows=rng.choice((None, None, some)),
        until=rng.choice([None, None, *(each.due for each in there)]),
        everything=likely(rng, 0.4),
        limit=rng.choice(LIMITS),
        others=likely(rng, 0.3),
    )


async def _read_due(w: World, query: DueQuery) -> None:
    w.trace.append(f"read all of {query!r}")
    all_there = _due_of(w, query.kind)
    left = [each for each in all_there if query.flows is None or each.to in query.flows]
    while True:
        page = await w.driver.get_due(query)
        last = query.until or w.saw(page.now)
        wanted = [each for each in left if query.everything or each.due <= last]
        expected = wanted[: query.limit]
        w.same(_compared(query.kind, page.due), _compared(query.kind, expected), f"{query!r}")
        left = left[len(page.due) :]
        found = (page.more, page.next_at, list(page.damaged))
        following = left[0].due if left else None
        w.same(found, (len(wanted) > query.limit, following, []), f"the rest of {query!r}")
        if query.others and not query.everything:
            rest = {each.to for each in all_there if each.due <= last} - set(query.flows or ())
            others = sorted(rest) if query.flows is not None else []
            w.same(sorted(page.others), others, f"other flows of {query!r}")
        if not page.more:
            return
        query = replace(query, after=page.end)


def _due_of(w: World, kind: DueKind) -> list[DelayedState]:
    match kind:
        case "delay":
            return w.model.delayed()
        case "stall":
            return w.model.stalled()
    return w.model.idle()


def _compared(kind: DueKind, found: Sequence[DelayedState]) -> list[object]:
    """Return what is said of something due: of a stalled state, not what only delays have."""
    if kind == "delay":
        return list(found)
    return [(each.id, each.state, each.to, each.due) for each in found]


async def delayed_states(w: World, rng: Random) -> None:
    """Read all pages of delays as a command."""
    command = GetDelayedStates(limit=rng.choice(LIMITS))
    w.trace.append(f"read all of {command!r}")
    page = await w.engine.do(command)
    found = list(page.delayed)
    while page.more:
        page = await w.engine.do(page.next)
        found += page.delayed
    w.same(found, w.model.delayed(), repr(command))


async def liveness(w: World, rng: Random) -> None:
    """Read what is known about some latest revisions."""
    ids = rng.sample(IDS, rng.choice((1, 1, 2, 3, 0)))
    w.trace.append(f"get_liveness({ids!r})")
    await _compare_liveness(w, ids)


async def _compare_liveness(w: World, ids: Sequence[str]) -> None:
    answers = await w.driver.get_liveness(ids)
    for id, found in zip(ids, answers, strict=True):
        now = w.saw(found.now) if found else w.earliest()
        w.same(found, w.model.liveness(id, now), f"liveness of {id!r}")


async def inspect(w: World, rng: Random) -> None:
    """Compare everything that is stored."""
    w.take_turn()
    w.same(await w.engine.head(), w.model.head, "head")
    await _read(w, rng, GetStates(limit=MAX_PAGE))
    await _read(w, rng, GetStates(latest_only=True, limit=MAX_PAGE))
    await delayed_states(w, rng)
    await _compare_liveness(w, IDS)
    for kind in KINDS:
        await _read_due(w, DueQuery(kind, everything=True, limit=MAX_PAGE))
    w.same(await w.driver.count(StateQuery()), len(w.model.latest), "how many there are")
    for checksum, stored in w.model.data.items():
        expected = Data(stored.data.blob, stored.data.annotations, checksum=checksum)
        w.same(await w.driver.get_data(checksum), expected, f"data {checksum}")
    for checksum in CHECKSUMS - w.model.data.keys():
        w.same(await w.driver.get_data(checksum), None, f"data {checksum}, which is not there")


def _bad_commands(ctx: StateContext) -> list[tuple[Command[Any], type[Exception], str]]:
    """Return commands with one fault each, and the field that must be named."""
    naive, odd, bad = datetime(2030, 1, 1), State("\ud800"), InvalidInputError  # noqa: DTZ001
    whole, wrong = InvalidCommandError, ctx.copy()
    wrong.data["x"] = Data("text")  # type: ignore[arg-type]
    label, other = ctx.copy(), ctx.copy()
    label.set_label("k", "\0")
    other.current = replace(other.current, annotations=FrozenDict({"": "v"}))
    nothing: Any = None
    return [
        (Commit(Transit(ctx, "nowhere")), UnknownFlowError, ""),
        (Commit(End(ctx), Transit(ctx, "")), bad, "to"),
        (Commit(End(StateContext(odd))), bad, "state.id"),
        (Commit(End(ctx), End(ctx.fork("x" * 513))), bad, "state.id"),
        (Commit(End(label)), bad, "state.labels['k']"),
        (Commit(End(other)), bad, "state.annotations key"),
        (Transit(ctx, "work", {"": "v"}), bad, "annotations key"),
        (Commit(Pause(ctx, {"k": nothing})), bad, "annotations['k']"),
        (Commit(Delay(ctx, "work")), bad, "delay"),
        (Delay(ctx, "work", until=naive), bad, "until"),
        (Commit(End(ctx), Delay(ctx, "work", after=timedelta(-1))), bad, "after"),
        (Commit(), whole, "commit"),
        (Commit(End(ctx), Commit(End(ctx))), whole, "commit"),
        (Commit(End(ctx), GetStates()), whole, "commit"),
        (Commit(Execute(ctx)), whole, "commit"),
        (Commit(StoreData(ctx, "missing")), DataNotFoundError, ""),
        (StoreData(ctx, ""), bad, "alias"),
        (StoreData(wrong, "x"), bad, "data['x'].blob"),
        (GetStates(limit=0), bad, "limit"),
        (GetStates(limit=1_001), bad, "limit"),
        (GetStates(limit=nothing), bad, "limit"),
        (GetStates(since_rev=-1), bad, "since_rev"),
        (GetStates(since_rev=2**63), bad, "since_rev"),
        (GetStates(since_rev=1, since_latest=True), bad, "since_latest"),
        (GetStates(since_time=naive), bad, "since_time"),
        (GetStates({"": "v"}), bad, "labels key"),
        (GetState(), bad, "id"),
        (GetState("a", -1), bad, "rev"),
        (GetDelayedStates(limit=True), bad, "limit"),
        (GetDelayedStates(until=naive), bad, "until"),
    ]


async def refused(w: World, rng: Random) -> None:
    """Do something that must be refused, before anything is written."""
    known = w.contexts.get(rng.choice(IDS))
    # Without what is not committed, which may be another fault.
    ctx = StateContext(known.committed if known else State(rng.choice(IDS)))
    command, kind, field = rng.choice(_bad_commands(ctx))
    w.trace.append(f"do({command!r:.2000})")
    before = (ctx.current, ctx.committed, ctx.transitions, dict(ctx.data))
    found = await outcome(w.engine.do(command))
    w.same((type(found), getattr(found, "field", "")), (kind, field), f"refusal of {command!r}")
    after = (ctx.current, ctx.committed, ctx.transitions, dict(ctx.data))
    w.same(after, before, f"context after {command!r}")
    w.same(len(w.driver.sent), 0, f"commits sent by {command!r}")
    w.same(await w.engine.head(), w.model.head, f"head after {command!r}")


READING: dict[str, tuple[int, Operation]] = {
    "get": (6, get),
    "find": (14, find),
    "find_on": (3, find_on),
    "delays": (4, delays),
    "delayed_states": (1, delayed_states),
    "stalled": (4, stalled),
    "idle": (2, idle),
    "count": (3, count),
    "liveness": (3, liveness),
    "inspect": (1, inspect),
    "refused": (3, refused),
}
"""With how often each comes, compared to the others."""
