"""Locks that instances share: who holds one, and who waits for it, in one state of the store."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    FlowRegistry,
    FlowstateError,
    Forget,
    InvalidCommandError,
    Pause,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.engines.kernel.code import Update
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.instance import OUTCOME, THREADS
from flowstate.engines.kernel.operations import Handler
from flowstate.engines.kernel.threads import Threads
from flowstate.engines.workflow.definition import helper
from flowstate.engines.workflow.managers import Manager
from flowstate.engines.workflow.marks import step, sub, wait
from flowstate.engines.workflow.shared import PATIENT, changed, now

__all__ = ["DeadlockError", "Held", "free_lock", "lock", "lock_line", "register_locks"]

FLOW = "workflows.lock"  # Tells who is the next to hold a lock.
PREFIX = "flowstate.lock."  # Of the ids of locks.
ENTER = "flowstate.lock"  # The code in which a thread gets a lock.
LINE = "line"  # The value of a lock.
LOOK = timedelta(minutes=1)
MOST = 5_000  # That hold a lock, or wait for it.
LOST, DEADLOCK = 1, -1  # In place of a number: it was taken by force; it would wait without end.
DEEPEST = 100  # Locks that one waits for because of another.
NO_CHANGE = Update(Any, lambda _data, _request: None)


class DeadlockError(FlowstateError):
    """To wait for a lock would never end: its holder waits for what this thread holds.

    Attributes:
        lock: its name.
    """

    def __init__(self, lock: str) -> None:
        super().__init__(f"the lock {lock!r} is held by what waits for this thread")
        self.lock = lock


class Held(Struct, frozen=True, omit_defaults=True):
    """A place in the line of a lock; the first one holds it.

    Attributes:
        lock: its name.
        key: of the place.
        instance: the id of the instance whose place it is.
        thread: the name of the thread.
        until: how long it waits; ``None``: without end.
        left: seconds of that.
        number: higher for each that holds the lock, so that a service can refuse one that held it
            before; 1 if the place was taken away by force, 0 while it waits.
    """

    lock: str
    key: str
    instance: str
    thread: str
    until: datetime | None = None
    left: float | None = None
    number: int = 0


class Line(Struct):
    """Who holds a lock, and who waits for it, in their order; the stored form.

    Attributes:
        places: the first one holds it.
        told: the key of the first one, once it knows.
    """

    places: list[Held] = []
    told: str = ""


def _id(lock: str) -> str:
    return f"{PREFIX}{lock}"


async def _place(lock: str, time: float | timedelta | None) -> Held:
    here = current_step()
    span = timedelta(seconds=time) if isinstance(time, int | float) else time
    until = None if span is None else await now() + span
    key = sha256(here.key.encode()).hexdigest()[:32]
    return Held(lock, key, here.instance, here.thread, until)


async def _ask(held: Held) -> Held:
    """Take a place in the line, if that is not done."""

    def stand(ctx: StateContext) -> Sequence[Command[Any]]:
        line = ctx.get(Line, LINE, default=Line())
        if not line.places:
            line.told = held.key
        if all(each.key != held.key for each in line.places):
            if len(line.places) >= MOST:
                raise OverflowError(f"{MOST} wait for the lock {held.lock!r}")
            line.places.append(held)
            ctx.put(line, LINE)
        is_first = line.places[0].key == held.key
        return () if is_first else (Delay(ctx, FLOW, timedelta(0)),)

    return await _judged(held, await changed(_id(held.lock), stand))


async def _look(held: Held) -> Held:
    try:
        state = await current_step().engine.get_state(_id(held.lock))
    except StateNotFoundError:
        return replace(held, number=LOST)
    return await _judged(held, state)


async def _judged(held: Held, state: State) -> Held:
    """Return a place with what the state of the lock says of it."""
    first, *others = state.get(Line, LINE).places
    if first.key == held.key:
        return replace(held, number=state.rev)
    if all(each.key != held.key for each in others):
        return replace(held, number=LOST)
    if await _waits_for(first, held):
        return replace(held, number=DEADLOCK)
    left = None if held.until is None else (held.until - await now()).total_seconds()
    return replace(held, left=None if left is None else max(0.0, left))


async def _waits_for(holder: Held, held: Held) -> bool:
    """Return whether the holder of a lock waits for a thread, perhaps by others."""
    engine = current_step().engine
    for _ in range(DEEPEST):
        if (holder.instance, holder.thread) == (held.instance, held.thread):
            return True
        place = await _place_of(engine, holder)
        line = await lock_line(engine, place.lock) if place else ()
        if not place or place.key not in [each.key for each in line[1:]]:
            break
        holder = line[0]
    return False


async def _place_of(engine: Engine, holder: Held) -> Held | None:
    """Return the place that the holder of a lock has taken for another lock."""
    try:
        state = await engine.get_state(holder.instance)
    except StateNotFoundError:
        return None
    threads = state.get(Threads, THREADS, default={})
    frames = threads[holder.thread].frames if holder.thread in threads else ()
    if not frames or frames[-1].code != ENTER or "held" not in frames[-1].names:
        return None
    return msgspec.json.decode(frames[-1].names["held"], type=Held)


async def lock_line(engine: Engine, lock: str) -> Sequence[Held]:
    """Return who holds a lock, and after it who waits for it, in their order."""
    with suppress(StateNotFoundError):
        line: Line = (await engine.get_state(_id(lock))).get(Line, LINE)
        return line.places
    return ()


async def free_lock(engine: Engine, lock: str) -> Held | None:
    """Take a lock from its holder by force, which goes on; return what it held."""
    line = await lock_line(engine, lock)
    for held in line[:1]:
        await _leave_line(engine, lock, held.key)
        return held
    return None


def register_locks(flows: FlowRegistry) -> None:
    """Let a registry pass locks on."""
    flows.set(FLOW, _serve, replace=True, retry=PATIENT)


async def _release(held: Held) -> None:
    if held.instance == current_step().instance:  # A fork holds nothing.
        await _leave_line(current_step().engine, held.lock, held.key)


async def _leave_line(engine: Engine, lock: str, key: str) -> None:
    def leave(ctx: StateContext) -> Sequence[Command[Any]]:
        line = ctx.get(Line, LINE)
        left = [each for each in line.places if each.key != key]
        if not left:
            return End(ctx), Forget(ctx)
        if left == line.places:
            return ()
        line.places = left
        ctx.put(line, LINE)
        return (Delay(ctx, FLOW, timedelta(0)),)

    with suppress(StateNotFoundError):
        await engine.update(_id(lock), leave)


async def _serve(ctx: StateContext, engine: Engine) -> Command[Any]:
    """Tell who is first that it holds the lock; look from time to time whether it still does."""
    line = ctx.get(Line, LINE)
    is_there = await _is_there(engine, line)
    if not is_there:
        line.places.pop(0)
    if not line.places:
        return Commit(End(ctx), Forget(ctx))
    ctx.put(line, LINE)
    if not is_there:
        return Commit(Transit(ctx, FLOW))  # The next one must not be told before it is the first.
    return Commit(Pause(ctx) if len(line.places) == 1 else Delay(ctx, FLOW, LOOK))


async def _is_there(engine: Engine, line: Line) -> bool:
    first = line.places[0]
    try:
        if line.told != first.key:
            await engine.signal(first.instance, _turn(first).name, key=first.key)
        state = await engine.get_state(first.instance)
    except (StateNotFoundError, InvalidCommandError):
        return False
    line.told = first.key
    is_over = state.status is Status.ENDED or OUTCOME in state.labels
    # A thread that an operator has sent elsewhere does not have its place any more.
    return not is_over and first.key.encode() in bytes(state.values.get(THREADS, b""))


def _turn(held: Held) -> Handler:
    """Return what a place in the line waits for."""
    return Handler(f"turn {held.key}", NO_CHANGE)


@helper(name="flowstate.lock-leave", shielded=True)
async def _leave(_s: Any, held: Held, _failed: bool) -> None:
    await step(_release, held, name="release", retry=PATIENT)


@helper(name=ENTER)
async def _enter(
    _s: Any,
    lock: str,
    timeout: float | timedelta | None = None,  # noqa: ASYNC109 - by the store's clock
) -> Held:
    held = await step(_place, lock, timeout, name="place", local=True)
    try:
        held = await step(_ask, held, name="ask", retry=PATIENT)
        while not held.number:
            await wait("turn", _turn(held), timeout=held.left)
            held = await step(_look, held, name="look", retry=PATIENT)
        if held.number == DEADLOCK:
            raise DeadlockError(held.lock)
    except BaseException:
        await sub(_leave, held, True)
        raise
    return held


lock: Manager[Held] = Manager(_enter, _leave)
