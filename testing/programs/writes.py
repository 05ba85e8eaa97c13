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
from flowstate.driver import Heartbeat, NewDelay, Writes
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
    """Return writes as no engine would make them: what they expect is often wrong."""
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
        to, due = rng.choice(FLOWS), FAR + timedelta(days=rng.randrange(3))
        delays = (NewDelay(puts[-1], to, EMPTY, due, None, commit=True, put=len(puts) - 1),)
    return Writes(
        token,
        tuple(puts),
        checks if puts else (),
        (replace(blob, checksum=checksum),) if brings or not puts else (),
        delays,
        (checksum,) if puts and refers and not brings else (),
    )


async def batch(w: World, rng: Random) -> None:
    """Give several commits to the driver at once, some of them a second time."""
    writes: list[Writes] = []
    for number in range(rng.randint(1, 5)):
        if writes and likely(rng, 0.15):
            writes.append(rng.choice(writes))
        elif w.sent and likely(rng, 0.15):
            writes += _replayable(w, rng)
        else:
            writes.append(_writes(w, rng, f"batch {len(w.sent)} {w.model.head} {number}"))
    await w.commit(writes)


def _replayable(w: World, rng: Random) -> list[Writes]:
    """Return something that was sent before, mostly what was sent last.

    What has no states leaves no trace but its data and delays: without these it is as new.
    """
    writes, _ = w.sent[-1] if likely(rng, 0.5) else rng.choice(w.sent)
    if writes.puts or writes.token not in w.model.verdicts:
        timed = all(delay.after is None for delay in writes.delays)
        return [writes] if timed or writes.token in w.model.verdicts else []
    delays = {f"{writes.token}.{index}" for index in range(len(writes.delays))}
    data = {data.checksum for data in writes.data}
    return [writes] if delays <= w.model.delays.keys() and data <= w.model.data.keys() else []


async def replay(w: World, rng: Random) -> None:
    """Give the driver what it has had already."""
    if w.sent:
        await w.commit(_replayable(w, rng))


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
    found = await w.driver.get_liveness(beat.id)
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


async def claim(w: World, rng: Random) -> None:
    """Claim a delay, which may be gone or claimed already."""
    id = rng.choice([*w.model.delays, "nothing.0"])
    delay = w.model.delays.get(id)
    due = FAR if delay is None or likely(rng, 0.2) else delay.due
    seconds = rng.choice((0.0, 0.5, 60.25))
    w.trace.append(f"claim({id!r}, {due!r}, {seconds})")
    low = await w.now()
    until = await w.driver.claim_delay(id, due, seconds)
    high = await w.now()
    if delay is None or delay.due != due or until is None:
        w.same(until, None if delay is None or delay.due != due else "a time", f"claim of {id}")
        return
    later = timedelta(seconds=seconds)
    w.between(until, low + later, high + later, "time of a claim")
    w.model.delays[id] = replace(delay, due=until)


async def drop(w: World, rng: Random) -> None:
    """Drop a delay."""
    id = rng.choice([*w.model.delays, "nothing.0"])
    w.trace.append(f"drop({id!r})")
    await w.driver.drop_delay(id)
    w.model.delays.pop(id, None)


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
    "claim": (3, claim),
    "drop": (1, drop),
    "compact": (1, compact),
    "reopen": (1, reopen),
    "pass_time": (4, pass_time),
}
"""With how often each comes, compared to the others."""
