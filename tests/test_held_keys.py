"""The key of a step that begins with a delay which is not committed, whatever came before it."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.drivers.memory import MemoryDriver

DAY = timedelta(days=1)


def tokens_with_dots() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"host.example.a7.{next(numbers)}"


@pytest.mark.parametrize("tokens", [None, tokens_with_dots()])
@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("delays", [1, 3])
async def test_tokens_and_updates_change_no_key(
    tokens: Callable[[], str] | None, updates: int, delays: int
) -> None:
    clock, flows, keys = FakeClock(), FlowRegistry(), list[str]()

    flows.declare("ask")

    @flows.flow
    async def work(ctx: StateContext, _: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        return Commit(End(ctx))

    async with Engine(MemoryDriver(clock), flows, clock=clock, tokens=tokens) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "ask")))
        held = [Delay(ctx, "work", (delays - place) * DAY, commit=False) for place in range(delays)]
        await engine.do(Commit(Pause(ctx), *held))
        for number in range(updates):
            await engine.update("a", lambda ctx, number=number: ctx.put(number))  # type: ignore[misc]
        async with Delayer(engine), engine.watch(id="a", status=Status.ENDED) as ended:
            await anext(ended)
    assert keys == ["a:2-2.1:work" if delays == 3 else "a:2.1:work"]
