"""What random programs are made of: commits of an engine, heartbeats, and the like.

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
    CancelTimer,
    Check,
    Command,
    Commit,
    Delay,
    End,
    Forget,
    GetData,
    Noop,
    Pause,
    Resume,
    Retry,
    SetTimer,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import Heartbeat
from flowstate.state import State
from flowstate.testing.programs.model import Beat
from flowstate.testing.programs.world import FLOWS, World

__all__ = [
    "BLOBS",
    "FAR",
    "IDS",
    "LABELS",
    "LONG_PAST",
    "Operation",
    "TIMERS",
    "WRITING",
    "likely",
]

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
LONG_PAST = datetime(2000, 1, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)
BLOBS = (b"", b"\0\xff", b"blob", b"x" * 40)
VALUES: tuple[object, ...] = (None, [], {"é": [1, 2.5, None]}, "\U0001f600\u2028", 2**63 - 1)
ALIASES = ("blob", "é %")
TIMERS = ("alarm", "é %")


def likely(rng: Random, chance: float) -> bool:
    """Return whether something comes that comes so often, from 0 to 1."""
    return rng.random() < chance


def _context(w: World, rng: Random, id: str | None = None) -> StateContext:
    """Return a context: mostly one that knows the latest revision, at times one that does not."""
    id = rng.choice(IDS[: rng.choice((3, len(IDS)))]) if id is None else id
    ctx = w.contexts.get(id)
    way = rng.randrange(20)
    if way == 0 or (way in {5, 6, 7, 8} and id not in w.model.latest):
        return StateContext(State(id))  # A state that was forgotten begins again.
    match way:
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
    after, until = _when(rng)
    notes = rng.choice(STEP_NOTES)
    return Delay(ctx, rng.choice(FLOWS), after, until, likely(rng, 0.8), notes)


def _when(rng: Random) -> tuple[timedelta | None, datetime | None]:
    """Return after how long, or when."""
    hour = timedelta(hours=1, microseconds=rng.randrange(3))
    after = rng.choice((timedelta(0), hour, None, None))
    until = rng.choice((LONG_PAST, FAR, FAR + hour))
    return after, None if after is not None else until


def _timer(ctx: StateContext, rng: Random) -> SetTimer | CancelTimer:
    name = rng.choice(TIMERS)
    if likely(rng, 0.3):
        return CancelTimer(ctx, name)
    return SetTimer(ctx, name, rng.choice(FLOWS), *_when(rng))


def _change(ctx: StateContext, rng: Random) -> None:
    """Change labels, annotations, values and blobs of a working copy."""
    if likely(rng, 0.3):
        key, value = rng.choice([(key or "empty", value) for key, value in LABELS])
        ctx.set_label(key, value if likely(rng, 0.7) else None)
    if likely(rng, 0.2):
        key, values = rng.choice(NOTES)
        ctx.set_annotation(key, rng.choice(values) if likely(rng, 0.6) else None)
    if likely(rng, 0.1):
        name = rng.choice(("value", "é %"))
        if likely(rng, 0.7):
            ctx.put(rng.choice(VALUES), name)
        else:
            ctx.remove(name)
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
    if likely(rng, 0.12):
        commands.insert(rng.randint(0, len(commands)), _timer(ctx, rng))
    if any(isinstance(command, End) for command in commands) and likely(rng, 0.3):
        commands.append(Forget(ctx))
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
    ways = (
        _step(ctx, rng),
        _delay(ctx, rng),
        StoreData(ctx, alias),
        GetData(ctx, alias),
        _timer(ctx, rng),
        Forget(ctx),
    )
    await w.do(rng.choices(ways, (4, 6, 4, 6, 2, 1))[0])


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
    "beat": (5, beat),
    "compact": (2, compact),
    "reopen": (1, reopen),
    "pass_time": (4, pass_time),
}
"""With how often each comes, compared to the others."""
