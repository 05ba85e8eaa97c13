"""Updates: a state is read, changed and committed, and nothing that others do to it is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

from flowstate.commands import Command, Commit, Pause, Transit
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import InvalidCommandError, InvalidInputError, StateNotFoundError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, in_another_loop, know, raised

__all__ = ["CASES"]

TASKS, TIMES = 16, 10


def _add(ctx: StateContext) -> None:
    ctx.put(ctx.get(int, "n", default=0) + 1, "n")


async def _count(h: Harness, id: str = "a") -> int:
    return (await h.engine.get_state(id)).get(int, "n", default=0)


async def _add_often(engine: Engine, id: str = "a") -> None:
    for _ in range(TIMES):
        await engine.update(id, _add)


@case()
async def update_of_a_hot_state(h: Harness) -> None:
    """G2: tasks of one engine that update one state lose nothing, and no race."""
    ctx = await committed(h, "a", labels={"kind": "x"})
    await h.engine.do(Commit(Pause(ctx, {"why": "y"})))
    await asyncio.gather(*(_add_often(h.engine) for _ in range(TASKS)))
    state = await h.engine.get_state("a")
    check(state.get(int, "n"), TASKS * TIMES, "how often it was changed")
    kept = (state.status, state.labels, state.transition.to, state.transition.annotations)
    check(kept, (Status.PAUSED, {"kind": "x"}, "work", {"why": "y"}), "what was not changed")
    check(await h.engine.head() <= 2 + TASKS * TIMES, True, "at most one revision for each")


@case("shared", real_time=True)
async def updates_of_two_processes(h: Harness) -> None:
    """G2: updates of two processes lose races against each other, and nothing else."""
    for id in "ab":
        await committed(h, id)

    async def add_to_both(engine: Engine) -> None:
        await asyncio.gather(*(_add_often(engine, id) for id in "aabb"))

    await asyncio.gather(add_to_both(h.engine), in_another_loop(h, add_to_both))
    check((await _count(h, "a"), await _count(h, "b")), (4 * TIMES,) * 2, "how often")


@case()
async def update_with_commands(h: Harness) -> None:
    """G1: what a change returns is committed together with what it has made of the state."""
    know(h, "next")
    await committed(h, "a")
    other = await committed(h, "b")

    async def both(ctx: StateContext) -> list[Command[None]]:
        _add(ctx)
        return [Transit(ctx, "next", {"why": "x"}), Pause(other)]

    state = await h.engine.update("a", both)
    check((state.rev, other.committed.rev), (3, 4), "revisions")
    check((state.transition.to, state.get(int, "n")), ("next", 1), "the updated state")
    check(await h.engine.update("a", lambda _: None), state, "an update that changes nothing")
    check(await h.engine.head(), 4, "head")


@case()
async def update_that_is_refused(h: Harness) -> None:
    """G3, G14: a change that raises or makes nonsense leaves the state alone, and the next goes."""
    await committed(h, "a")

    def fails(ctx: StateContext) -> None:
        _add(ctx)
        raise ArithmeticError("on purpose")

    async def within(ctx: StateContext) -> None:
        await h.engine.update("a", _add)

    refused: list[tuple[type[Exception], Callable[[StateContext], Any]]] = [
        (ArithmeticError, fails),
        (InvalidCommandError, lambda _: "nonsense"),
        (InvalidInputError, lambda ctx: ctx.set_label("a", "\0")),
        (InvalidCommandError, within),
    ]
    updates = [raised(error, h.engine.update, "a", change) for error, change in refused]
    await asyncio.gather(*updates, h.engine.update("a", _add))
    await raised(StateNotFoundError, h.engine.update, "unknown", _add)
    check((await _count(h), await h.engine.head()), (1, 2), "how often, and head")


CASES: tuple[Case, ...] = (
    update_of_a_hot_state,
    updates_of_two_processes,
    update_with_commands,
    update_that_is_refused,
)
