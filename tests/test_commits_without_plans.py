"""A commit that goes without a plan does what the same one does with a plan."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from flowstate import (
    Check,
    Command,
    Commit,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    Pause,
    Put,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import end

ROUNDS = 60
CHANGES: Sequence[Callable[[StateContext, int], None]] = (
    lambda ctx, drawn: ctx.set_label("k", ("a", "b", None)[drawn]),
    lambda ctx, drawn: ctx.set_annotation("k", ("a", "b", None)[drawn]),
    lambda ctx, drawn: ctx.put(drawn, "v"),
    lambda ctx, drawn: ctx.put(drawn, "w"),
    lambda ctx, drawn: ctx.remove("v" if drawn else "absent"),
)
COMMANDS: Sequence[Callable[[StateContext], Command[Any]]] = (
    Put,
    Put,
    Put,
    lambda ctx: Put(ctx, keep=True),
    lambda ctx: Transit(ctx, "f"),
    Pause,
    Resume,
)


def engine_of(seed: int) -> Engine:
    clock, rng = FakeClock(), Random(seed)
    flows = FlowRegistry()
    flows.set("f", end)
    driver = MemoryDriver(clock=clock)
    return Engine(driver, flows, clock=clock, tokens=lambda: f"{rng.getrandbits(64):x}")


async def outcome(engine: Engine, ctx: StateContext, commands: Sequence[Command[Any]]) -> Any:
    """Return what a commit raised, or else all that it has made of a context and the store."""
    try:
        await engine.do(Commit(*commands))
    except (InvalidCommandError, RevisionMismatchError) as error:
        return type(error), str(error)
    stored = await engine.get_state(ctx.current.id)
    parts = (ctx.current.transition, ctx.effect_key, ctx.transitions, ctx.current == ctx.committed)
    return stored, parts, await engine.head()


@pytest.mark.parametrize("seed", range(20))
async def test_it_makes_the_same_of_a_state(seed: int) -> None:
    rng = Random(seed)
    async with engine_of(seed) as without, engine_of(seed) as with_plan:
        contexts = [StateContext(State("s")) for _ in range(2)]
        others = [StateContext(State("other")) for _ in range(2)]
        for number in range(ROUNDS):
            change, command = rng.choice(CHANGES), rng.choice(COMMANDS)
            is_checked, is_stale = rng.random() < 0.3, rng.random() < 0.1
            drawn = rng.randrange(3)
            found = []
            for engine, ctx, other, rest in zip(
                (without, with_plan), contexts, others, ((), (Noop(),)), strict=True
            ):
                if number == 0:
                    await engine.do(Commit(Transit(ctx, "f")), Commit(Transit(other, "f")))
                change(ctx, drawn)
                beside = StateContext(State("other")) if is_stale else other
                checks = (Check(beside),) if is_checked else ()
                found.append(await outcome(engine, ctx, [command(ctx), *checks, *rest]))
            assert found[0] == found[1], (number, command)


@pytest.mark.parametrize("rest", [(), (Noop(),)])
async def test_a_bad_value_is_refused(rest: tuple[Command[None], ...]) -> None:
    async with engine_of(1) as engine:
        ctx = StateContext(State("s"))
        await engine.do(Commit(Transit(ctx, "f")))
        ctx.set_label("k", "x" * 600)
        with pytest.raises(InvalidInputError, match="labels"):
            await engine.do(Commit(Put(ctx), *rest))
        assert (await engine.get_state("s")).rev == 1


async def test_what_a_caller_calls_committed_is_not_trusted() -> None:
    async with engine_of(1) as engine:
        ctx = StateContext(State("s"))
        await engine.do(Commit(Transit(ctx, "f")))
        bad: Any = {"k": 1}
        ctx.current = ctx.committed = State("s", 1, labels=bad, transition=ctx.current.transition)
        with pytest.raises(InvalidInputError, match="labels"):
            await engine.do(Commit(Transit(ctx, "f")))
