"""One token, used by two processes for different commits: each gets the verdict of its own."""

import asyncio
from collections.abc import Callable
from itertools import count, repeat

import pytest

from flowstate import (
    Commit,
    End,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.driver import Driver

TASKS = 20
Open = Callable[[], Driver]


def tokens() -> Callable[[], str]:
    """Return what makes the tokens of one process, and of each that is its copy."""
    numbers = count(1)
    return lambda: f"copied-{next(numbers)}"


async def wins(engine: Engine, id: str, by: str) -> bool:
    """Return whether a state is this process's own, as far as it was told."""
    ctx = StateContext(State(id, annotations={"by": by}))
    try:
        await engine.do(Commit(End(ctx)))
    except RevisionMismatchError:
        return False
    assert ctx.committed.annotations["by"] == by
    return True


async def test_two_copies_of_a_process_do_not_both_win(open_store: Open) -> None:
    first = Engine(open_store(), FlowRegistry(), tokens=tokens(), name="first")
    second = Engine(open_store(), FlowRegistry(), tokens=tokens(), name="second")
    async with first, second:
        for number in range(TASKS):
            id = f"state-{number}"
            won = await asyncio.gather(wins(first, id, "first"), wins(second, id, "second"))
            assert sorted(won) == [False, True]
            state = await first.get_state(id)
            assert state.annotations["by"] == ("first" if won[0] else "second")
        assert await first.head() == TASKS


async def test_one_token_for_all_commits_loses_none(open_store: Open) -> None:
    """A token says which commit was sent again, and not which one it is."""
    same = repeat("the same")
    engine = Engine(open_store(), FlowRegistry(), tokens=lambda: next(same))
    async with engine:
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(engine.do(Commit(End(StateContext(State(f"{number}"))))))
        for number in range(TASKS):
            ctx = StateContext(State(f"{number}"))
            with pytest.raises(RevisionMismatchError):
                await engine.do(Commit(End(ctx)))
        assert await engine.head() == TASKS
