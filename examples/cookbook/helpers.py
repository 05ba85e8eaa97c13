"""What several recipes share: find the oldest waiting state, go on after a crash, await an end."""

from flowstate import Engine, Execute, State, StateContext, Status


async def oldest(engine: Engine, labels: dict[str, str]) -> State:
    """Return the paused state with these labels that waits longest; wait until there is one."""
    head = await engine.head()
    async for state in engine.states(labels=labels, status=Status.PAUSED, latest_only=True):
        return state
    async with engine.watch(labels=labels, status=Status.PAUSED, since_rev=head) as states:
        return await anext(states)


async def pick_up(engine: Engine) -> int:
    """Execute again what a process that died has left active; return how many states.

    Call it at start, and only where no other process executes the same states: it cannot tell
    a state that was left from one that somebody executes.
    """
    left = [
        state
        async for state in engine.states(status=Status.ACTIVE, latest_only=True)
        if state.delayed_until is None and engine.can_execute(state.transition.to)
    ]
    for state in left:
        await engine.do(Execute(StateContext(state)))
    return len(left)


async def reached(
    engine: Engine, labels: dict[str, str], count: int, status: Status = Status.ENDED
) -> list[State]:
    """Wait until ``count`` states with these labels have a status; return them by id."""
    found: dict[str, State] = {}
    async with engine.watch(labels=labels, status=status) as states:
        while len(found) < count:
            state = await anext(states)
            found[state.id] = state
    return [found[id] for id in sorted(found)]
