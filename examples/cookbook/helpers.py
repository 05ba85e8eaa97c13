"""What several demos share: begin, wait for the end, and go on after a crash."""

import contextlib

from flowstate import Engine, Execute, RevisionMismatchError, State, StateContext, Status


async def begin(engine: Engine, state: State, to: str, value: object = None) -> None:
    """Start a new state, unless an earlier run has started it."""
    ctx = StateContext(state)
    if value is not None:
        ctx.put(value)
    with contextlib.suppress(RevisionMismatchError):
        await engine.start(ctx, to)


async def reached(engine: Engine, labels: dict[str, str], count: int) -> list[State]:
    """Wait until ``count`` states with these labels have ended; return them by id."""
    found: dict[str, State] = {}
    async with engine.watch(labels=labels, status=Status.ENDED) as states:
        while len(found) < count:
            state = await anext(states)
            found[state.id] = state
    return [found[id] for id in sorted(found)]


async def pick_up(engine: Engine) -> int:
    """Execute again what a process that died has left active; return how many states.

    Call it at start, and only where no other process executes the same states: it cannot tell
    a state that was left from one that an engine executes.
    """
    left = [
        state
        async for state in engine.states(status=Status.ACTIVE, latest_only=True)
        if state.delayed_until is None and engine.can_execute(state.transition.to)
    ]
    for state in left:
        await engine.do(Execute(StateContext(state)))
    return len(left)
