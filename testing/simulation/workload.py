# ruff: noqa: ARG001 - every flow takes the same arguments
"""What simulated processes execute: flows that need every promise of the library.

A state carries its plan: the flows that it is to go through, one after the other. Each flow
commits its step in another way.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from random import Random

from flowstate.commands import (
    CancelTimer,
    Check,
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Forget,
    Noop,
    Pause,
    SetTimer,
    Transit,
)
from flowstate.context import StateContext
from flowstate.engine import Engine, Flow
from flowstate.errors import RevisionMismatchError, StateNotFoundError
from flowstate.recovery import retry_after
from flowstate.registry import FlowOptions, FlowRegistry
from flowstate.state import State
from flowstate.testing.simulation.messages import receive
from flowstate.testing.simulation.plans import Body, Plan, advanced, goes_on_in
from flowstate.testing.simulation.policies import (
    POLICIES,
    FlowFailedError,
    amend,
    attempt_strictly,
    attempt_with_effect,
)

__all__ = [
    "BY",
    "COUNT",
    "COUNTER",
    "SEEN",
    "counter_of",
    "draw_plans",
    "incremented",
    "make_flows",
    "untimed",
]

STEPS = (
    *("work", "count", "count", "check", "delay", "delay", "claim", "long", "long", "fail"),
    *("alarm", "race", "remind", "try", "try", "strict", "receive", "receive"),
)
SEEN, COUNT, BY = "seen", "count", "by"  # Annotations.
COUNTER = "counter-"
COUNTERS = 2
LONG = 1.6  # Times the retry_after of a state.
SHORT = 0.2
FAILURES = 0.35
ALARM, DEADLINE, REMINDER = "alarm", "deadline", "reminder"  # Timers.
WITH_POLICY = 0.2  # A part of the states.
INTERRUPTED = 0.5  # A part of the flows: those are cancelled when others move their state on.

Running = Callable[[StateContext], AbstractContextManager[None]]
"""Made around every run of a flow, so that a record can be kept."""


def draw_plans(rng: Random, count: int, within: float) -> list[Plan]:
    """Return plans for so many states, in the order of their times."""
    times = sorted(rng.uniform(0.0, within) for _ in range(count))
    return [_drawn(rng, f"s{number}", at) for number, at in enumerate(times)]


def _drawn(rng: Random, id: str, at: float) -> Plan:
    lives = rng.choice((0, 0, 1, 2))
    return Plan(
        id=id,
        steps=(*rng.choices(STEPS, k=rng.randint(1, 5)), "leave" if lives else "finish"),
        retry_after=rng.choice((0.6, 1.0, 1.6)),
        max_attempts=rng.choice((2, 3, 4)),
        at=at,
        lives=max(1, lives),
        attempts=rng.choice((2, 3)) if rng.random() < WITH_POLICY else None,
    )


def counter_of(id: str) -> str:
    """Return the id of the counter that a state increments."""
    return f"{COUNTER}{int(id[1:]) % COUNTERS}"


async def incremented(engine: Engine, id: str, by: str) -> StateContext:
    """Return the context of a counter that is one higher, not committed yet."""
    try:
        counter = StateContext(await engine.get_state(id))
    except StateNotFoundError:
        counter = StateContext(State(id))
    count = int(counter.current.annotations.get(COUNT, "0"))
    counter.set_annotation(COUNT, str(count + 1))
    counter.set_annotation(BY, by)
    return counter


def make_flows(rng: Random, running: Running) -> FlowRegistry:
    """Return the flows of one process."""
    flows = FlowRegistry()
    for id, body in FLOWS.items():
        options = POLICIES.get(id, FlowOptions())
        options = {**options, "interrupt": rng.random() < INTERRUPTED}
        flows.set(id, _recorded(body, rng, running), **options)
    return flows


def _recorded(body: Body, rng: Random, running: Running) -> Flow:
    async def flow(ctx: StateContext, engine: Engine) -> Command[None]:
        with running(ctx):
            return await body(ctx, engine, rng)

    return flow


async def _work(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    await asyncio.sleep(SHORT * rng.random())
    return Commit(Transit(ctx, advanced(ctx)))


async def _long(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Outlive the ``retry_after``, by any number of awaits."""
    seconds = retry_after(ctx.current).total_seconds() * LONG
    for _ in range(4):
        await asyncio.sleep(seconds * rng.uniform(0.5, 1.5) / 4)
    return Commit(Transit(ctx, advanced(ctx)))


async def _fail(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    await asyncio.sleep(SHORT * rng.random())
    if rng.random() < FAILURES:
        raise FlowFailedError(ctx.current.id)
    return Commit(Transit(ctx, advanced(ctx)))


async def _count(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Increment a counter in the commit of the step, and go on within this execution."""
    to = advanced(ctx)
    while True:
        counter = await incremented(engine, counter_of(ctx.current.id), ctx.current.id)
        try:
            await engine.do(Commit(Transit(ctx, to), Pause(counter)))
        except RevisionMismatchError as lost:
            if ctx.current.id in lost.ids:
                return Noop()
        else:
            return Execute(ctx)


async def _check(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Commit the step only if a counter is still what it was."""
    to = advanced(ctx)
    while True:
        try:
            counter = StateContext(await engine.get_state(counter_of(ctx.current.id)))
        except StateNotFoundError:
            return Commit(Transit(ctx, to))
        await asyncio.sleep(SHORT * rng.random() / 4)
        ctx.set_annotation(SEEN, str(counter.committed.rev))
        try:
            await engine.do(Commit(Check(counter), Transit(ctx, to)))
        except RevisionMismatchError as lost:
            if ctx.current.id in lost.ids:
                return Noop()
        else:
            return Execute(ctx)


async def _delay(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    after = timedelta(seconds=rng.uniform(0.0, 1.5))
    return Commit(Delay(ctx, advanced(ctx), after=after))


async def _claim(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go on after a delay that does not commit when it fires."""
    after = timedelta(seconds=rng.uniform(0.0, 1.0))
    return Commit(Delay(ctx, advanced(ctx), after=after, commit=False))


async def _alarm(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Pause until a timer goes on."""
    to, after = advanced(ctx), timedelta(seconds=rng.uniform(0.0, 1.5))
    return Commit(SetTimer(ctx, ALARM, to, after=after), Pause(ctx))


async def _race(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go on, or let a timer do that, whichever comes first."""
    if DEADLINE not in ctx.current.timers:
        to, after = advanced(ctx), timedelta(seconds=rng.uniform(0.0, 0.8))
        try:
            await engine.do(Commit(SetTimer(ctx, DEADLINE, to, after=after)))
        except RevisionMismatchError:
            return Noop()
    await asyncio.sleep(rng.uniform(0.0, 0.8))
    return Commit(CancelTimer(ctx, DEADLINE), Transit(ctx, goes_on_in(ctx.current)))


async def _remind(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go on, and be interrupted some time later, wherever the state is by then."""
    after = timedelta(seconds=rng.uniform(0.0, 2.0))
    return Commit(SetTimer(ctx, REMINDER, "reminded", after=after), Transit(ctx, advanced(ctx)))


async def _reminded(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go back to where the state was."""
    return Commit(*untimed(ctx), Transit(ctx, goes_on_in(ctx.current)))


def untimed(ctx: StateContext) -> list[Command[None]]:
    """Return commands that remove the timers that would move a state on by its plan."""
    return [CancelTimer(ctx, name) for name in (ALARM, DEADLINE)]


async def _leave(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    return Commit(End(ctx), Forget(ctx))


async def _finish(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    return Commit(End(ctx))


FLOWS: dict[str, Body] = {
    "work": _work,
    "long": _long,
    "fail": _fail,
    "count": _count,
    "check": _check,
    "delay": _delay,
    "claim": _claim,
    "alarm": _alarm,
    "race": _race,
    "remind": _remind,
    "reminded": _reminded,
    "try": attempt_with_effect,
    "strict": attempt_strictly,
    "amends": amend,
    "receive": receive,
    "leave": _leave,
    "finish": _finish,
}
