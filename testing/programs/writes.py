"""What random programs are made of: commits, and whatever else writes.

Each operation draws what it does from a source of chance, in view of what the store holds by then.
So any operations of a program make a program again, which is how failing ones are made shorter.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from msgspec.structs import replace

from flowstate.clock import FakeClock
from flowstate.codec import DelayBody, encode_body, encode_delay
from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    GetData,
    Noop,
    Pause,
    Resume,
    Retry,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import Claim, Drop, Heartbeat, NewDelay, Writes
from flowstate.frozen import EMPTY, FrozenDict
from flowstate.state import State, Status, Transition
from flowstate.testing.programs.model import Beat
from flowstate.testing.programs.world import FLOWS, World

__all__ = ["IDS", "LABELS", "Operation", "WRITING", "likely"]

Operation = Callable[[World, Random], Awaitable[None]]

IDS = ("a", "b", "c", "d", "e", "é", "e\u0301", "{}*%s", ".'\"\\\n", "\U0001f600", "x" * 512)
LABELS = (("kind", "x"), ("kind", "y"), ("tier", "1"), ("tier", "é*"), ("", ""), ("k\n%", ""))
RULES = "flowstate.recovery."
NOTES = (
    (RULES + "retry_after", ("60", "0.001", "3600.5", "soon", "1e999")),
    (RULES + "disabled", ("",)),
    ("note", ("", "x", "\u2028{}'%s")),
)
STEP_NOTES: tuple[dict[str, str], ...] = ({}, {}, {}, {"n": "1"}, {RULES + "wait": "500"})
FAR = datetime(2200, 1, 1, tzinfo=UTC)
BLOBS = (b"", b"\0\xff", b"blob", b"x" * 40)
ALIASES = ("blob", "é %")
HOLDERS = ("one", "é two")


def likely(rng: Random, chance: float) -> bool:
    """Return whether something comes that comes so often, from 0 to 1."""
    return rng.random() < chance


def _context(w: World, rng: Random, id: str | None = None) -> StateContext:
    """Return a context: mostly one that knows the latest revision, at times one that does not."""
    id = rng.choice(IDS[: rng.choice((3, len(IDS)))]) if id is None else id
    ctx = w.contexts.get(id)
    match rng.randrange(20):
        case 0:
            return StateContext(State(id))
        case 1:
            # Of a revision that may be outdated, or of another state.
            rev = rng.randint(0, w.model.head + 1)
            state = w.model.log.get(rev, State(id))
            return StateContext(replace(state, id=id, rev=rev) if likely(rng, 0.3) else state)
        case 2 | 3 if ctx is not None:
            return ctx.copy()
        case 4 if ctx is not None:
            return ctx.fork(rng.choice(IDS))
        case 5 | 6 if id in w.model.latest:
            return StateContext(w.model.get(id))
    return ctx or StateContext(State(id))


def _step(ctx: StateContext, rng: Random) -> Command[Any]:
    notes = rng.choice(STEP_NOTES)
    match rng.randrange(10):
        case 0:
            return Pause(ctx, notes)
        case 1:
            return Resume(ctx, notes)
        case 2:
            return End(ctx, notes)
        case 3:
            return Retry(ctx, notes)
    return Transit(ctx, rng.choice(FLOWS) if likely(rng, 0.98) else "nowhere", notes)


def _delay(ctx: StateContext, rng: Random) -> Delay:
    hour = timedelta(hours=1, microseconds=rng.randrange(3))
    after = rng.choice((timedelta(0), hour, None, None))
    until = rng.choice((datetime(2000, 1, 1, tzinfo=UTC), FAR, FAR + hour))
    return Delay(
        ctx,
        rng.choice(FLOWS),
        after=after,
        until=None if after is not None else until,
        commit=likely(rng, 0.8),
        annotations=rng.choice(STEP_NOTES),
    )


def _change(ctx: StateContext, rng: Random) -> None:
    """Change labels, annotations and blobs of a working copy."""
    if likely(rng, 0.3):
        key, value = rng.choice([(key or "empty", value) for key, value in LABELS])
        ctx.set_label(key, value if likely(rng, 0.7) else None)
    if likely(rng, 0.2):
        key, values = rng.choice(NOTES)
        ctx.set_annotation(key, rng.choice(values) if likely(rng, 0.6) else None)
    if likely(rng, 0.1):
        note = {"n": str(rng.randrange(3))}
        ctx.data[rng.choice(ALIASES)] = Data(rng.choice(BLOBS), note if likely(rng, 0.3) else {})


def _commands(w: World, rng: Random) -> list[Command[Any]]:
    """Return what a commit does with one context."""
    ctx = _context(w, rng)
    _change(ctx, rng)
    steps = rng.choice((0, 1, 1, 1, 1, 1, 1, 1, 2, 3))
    commands = [_step(ctx, rng) for _ in range(steps)]
    if likely(rng, 0.12):
        commands.append(Check(ctx))
    if likely(rng, 0.15):
        commands += [_delay(ctx, rng) for _ in range(rng.choice((1, 1, 2)))]
    if ctx.data and likely(rng, 0.5):
        commands.append(StoreData(ctx, rng.choice(list(ctx.data))))
    if likely(rng, 0.04):
        commands.append(rng.choice((Noop(), GetData(ctx, rng.choice(ALIASES)))))
    return commands


async def commit(w: World, rng: Random) -> None:
    """Commit one to five states."""
    parts = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 5))
    commands = [command for _ in range(parts) for command in _commands(w, rng)]
    if likely(rng, 0.1):
        rng.shuffle(commands)
    await w.do(Commit(*commands))


async def step(w: World, rng: Random) -> None:
    """Take a step without a commit, or do what is durable by itself."""
    ctx = _context(w, rng)
    _change(ctx, rng)
    alias = rng.choice([*ctx.data, *ALIASES])
    ways = (_step(ctx, rng), _delay(ctx, rng), StoreData(ctx, alias), GetData(ctx, alias))
    await w.do(rng.choices(ways, (2, 3, 2, 3))[0])


def _writes(w: World, rng: Random, token: str) -> Writes:
    """Return writes as no engine makes them: what they expect is often wrong."""
    latest = w.model.latest

    def expected(id: str) -> int:
        near = latest.get(id, 0) if likely(rng, 0.8) else w.model.head
        return max(0, near + rng.choice((0, 0, 0, 0, 1, 2, -1)))

    puts = []
    for id in rng.sample(IDS[:6], rng.choice((0, 1, 1, 1, 2, 3))):
        labels = FrozenDict(
            {key or "empty": value for key, value in rng.sample(LABELS, rng.randrange(3))}
        )
        status = rng.choice(list(Status))
        puts.append(State(id, expected(id), labels, EMPTY, Transition("work"), status))
    checks = tuple((id, expected(id)) for id in rng.sample(IDS[:6], rng.choice((0, 0, 0, 1))))
    blob = Data(rng.choice(BLOBS), rev=1)
    checksum = checksum_of(blob)
    brings, refers = likely(rng, 0.2), likely(rng, 0.1)
    if puts and (refers or brings):
        puts[0] = replace(puts[0], data=FrozenDict({"blob": DataRef(1, checksum)}))
    delays: tuple[NewDelay, ...] = ()
    if puts and likely(rng, 0.2):
        delays = (_new_delay(puts[-1], len(puts) - 1, rng),)
    return Writes(
        token,
        tuple(puts),
        () if w.driver.stores_objects else tuple(map(encode_body, puts)),
        checks if puts else (),
        (replace(blob, checksum=checksum),) if brings or not puts else (),
        delays,
        (checksum,) if puts and refers and not brings else (),
        size=1_000 * (1 + len(puts)),
    )


def _new_delay(state: State, put: int, rng: Random) -> NewDelay:
    to, due = rng.choice(FLOWS), FAR + timedelta(days=rng.randrange(3))
    references = tuple(ref.checksum for ref in state.data.values())
    return NewDelay(
        state,
        to,
        EMPTY,
        due,
        None,
        commit=True,
        body=encode_delay(DelayBody(to)),
        put=put,
        references=references,
    )


async def batch(w: World, rng: Random) -> None:
    """Give several commits to the driver at once."""
    numbers = range(rng.randint(1, 5))
    await w.commit([_writes(w, rng, _new_token(w, number)) for number in numbers])


def _new_token(w: World, number: int) -> str:
    return f"batch {len(w.sent)} {w.model.head} {number}"


async def replay(w: World, rng: Random) -> None:
    """Give the driver what it has had already: the same writes must not be applied twice."""
    sent = [writes for writes in w.sent if writes.puts]
    if sent:
        await w.commit([sent[-1] if likely(rng, 0.5) else rng.choice(sent)])


async def same_token(w: World, rng: Random) -> None:
    """Give the driver other writes under a token that it knows: they are new."""
    sent = [writes for writes in w.sent if writes.puts]
    if sent:
        writes = _writes(w, rng, rng.choice(sent).token)
        await w.commit([replace(writes, delays=())])


async def beat(w: World, rng: Random) -> None:
    """Send heartbeats for some states, in the end to none."""
    beats = []
    for id in rng.sample(IDS, rng.randint(0, 4)):
        rev = w.model.latest.get(id, 0) - (likely(rng, 0.2))
        seconds = rng.choice((None, 0.0, 0.25, 60.5, 3600.000001))
        beats.append(Heartbeat(id, max(rev, 0), seconds, rng.choice(("", "note", "é\u2028 {}"))))
    w.trace.append(f"beat({beats!r})")
    low = await w.now()
    answers = await w.driver.beat(beats)
    high = await w.now()
    wanted = [w.model.latest.get(each.id) == each.rev for each in beats]
    w.same(list(answers), wanted, "answers to heartbeats")
    for each, is_latest in zip(beats, wanted, strict=True):
        if is_latest:
            await _learn_beat(w, each, low, high)


async def _learn_beat(w: World, beat: Heartbeat, low: datetime, high: datetime) -> None:
    """Tell the model when a heartbeat was noted; that can be told from the one before."""
    (found,) = await w.driver.get_liveness([beat.id])
    at = found.beat_at if found else None
    if found is None or at is None:
        raise AssertionError(f"liveness after {beat!r}: {found!r}")
    last = w.model.beats.get(beat.id)
    # Where the clock stands still or goes back, it is a microsecond later than the last one.
    latest = high if last is None else max(high, last.at + timedelta(microseconds=1))
    w.between(at, low, latest, f"time of {beat!r}")
    if last is not None and at == last.at:
        raise AssertionError(f"{beat!r} cannot be told from the one before")
    w.model.beats[beat.id] = Beat(at, beat.note)
    if beat.seconds is not None and beat.id in w.model.stalls and found.stalls_at is not None:
        postponed = timedelta(seconds=beat.seconds)
        w.between(found.stalls_at, low + postponed, max(at, high) + postponed, f"after {beat!r}")
        w.model.stalls[beat.id] = found.stalls_at
    w.same(found, w.model.liveness(beat.id, w.saw(found.now)), f"liveness after {beat!r}")


def _delay_id(w: World, rng: Random) -> str:
    """Return the id of a delay: one that can be claimed or is, any one, or one that is gone."""
    now = w.earliest()
    due = [each.id for each in w.model.delays.values() if each.due <= now]
    return rng.choice([*w.model.delays, *due, *due, *w.model.holders, "nothing.0"])


async def claim(w: World, rng: Random) -> None:
    """Claim one or two delays, which may be gone, not due, or claimed already."""
    ids = {_delay_id(w, rng) for _ in range(rng.choice((1, 1, 1, 2)))}
    seconds = rng.choice((0.0, 60.25))
    claims = tuple(Claim(id, rng.choice(HOLDERS), seconds) for id in sorted(ids))
    await w.commit([Writes(_new_token(w, 0), claims=claims)])


async def drop(w: World, rng: Random) -> None:
    """Drop a delay, which only its holder can."""
    drops = (Drop(_delay_id(w, rng), rng.choice(HOLDERS)),)
    await w.commit([Writes(_new_token(w, 0), drops=drops)])


async def compact(w: World, rng: Random) -> None:
    """Remove old revisions."""
    head = w.model.head
    before = rng.choice((0, head // 2, max(0, head - rng.randrange(20)), head, 2**63 - 1))
    w.trace.append(f"compact({before})")
    removed = await w.engine.compact(before)
    w.same(removed, w.model.compact(before), "removed revisions")
    for checksum in w.model.in_doubt(before):
        if await w.driver.get_data(checksum) is None:
            del w.model.data[checksum]


async def reopen(w: World, rng: Random) -> None:  # noqa: ARG001 - as all operations
    """Close and open a store that outlives that."""
    if w.capabilities.durable:
        w.trace.append("reopen()")
        await w.reopen()


async def pass_time(w: World, rng: Random) -> None:
    """Let time pass, or set a clock back."""
    if isinstance(w.clock, FakeClock):
        seconds = rng.choice((0.001, 0.5, 60.0, 3601.0, -30.0))
        w.trace.append(f"pass_time({seconds})")
        w.clock.set_now(w.saw(w.clock.now()) + timedelta(seconds=seconds))


WRITING: dict[str, tuple[int, Operation]] = {
    "commit": (40, commit),
    "step": (8, step),
    "batch": (6, batch),
    "replay": (4, replay),
    "beat": (5, beat),
    "same_token": (2, same_token),
    "claim": (4, claim),
    "drop": (2, drop),
    "compact": (1, compact),
    "reopen": (1, reopen),
    "pass_time": (4, pass_time),
}
"""With how often each comes, compared to the others."""
