"""Whatever clients and operators do to one instance at the same time, it ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from flowstate import InvalidCommandError, InvalidInputError
from flowstate.engines.workflow import WorkflowCancelled, Workflows
from tests.engines.workflow.orders import Approved, Order, opened, order, shop

LIKELY = (InvalidInputError, InvalidCommandError)  # It has ended, or nothing waits.

Act = Callable[[Workflows, str], Awaitable[object]]


def add(data: Order) -> None:
    data.cart.append("tea")


ACTS: dict[str, Act] = {
    "edit": lambda w, id: w.edit(id, add),
    "goto": lambda w, id: w.goto(id, "approval", names={"receipt": "r"}),
    "retry": lambda w, id: w.retry(id),
    "update": lambda w, id: w.update(id, "rename", "otto", timeout=600),
    "pause": lambda w, id: w.pause(id),
    "send": lambda w, id: w.send(id, Approved("anna")),
    "cancel": lambda w, id: w.cancel(id),
    "fork": lambda w, id: w.fork(id, f"{id}+"),
    "look": lambda w, id: w.explain(id),
}


async def do(workflows: Workflows, id: str, act: Act, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    with contextlib.suppress(*LIKELY):
        await act(workflows, id)


async def ends(workflows: Workflows, id: str) -> str:
    """Let an instance go on, and return how it ends."""
    with contextlib.suppress(*LIKELY):
        await workflows.resume(id)
        await workflows.send(id, Approved("late"))
    try:
        result: str = await workflows.result(id, timeout=5_000)
    except WorkflowCancelled:
        return "cancelled"
    return "expired" if result == "expired" else "done"  # No message may be missed.


@pytest.mark.parametrize("seed", range(10))
async def test_an_instance_ends_whatever_is_done_to_it_at_once(seed: int) -> None:
    rng = Random(seed)
    ended = []
    async with opened(order) as workflows:
        for number in range(15):
            id = f"o{number}"
            shop.broken = {"charge"} if rng.random() < 0.3 else set()
            await workflows.start(order, id, Order([]))
            names = rng.choices([*ACTS], weights=[4, 2, 2, 4, 1, 2, 1, 2, 2], k=6)
            await asyncio.gather(
                *(do(workflows, id, ACTS[name], rng.randrange(60)) for name in names)
            )
            shop.broken = set()
            ended.append(await ends(workflows, id))
            assert await workflows.count(order, kind="parked") == 0
            if "fork" in names:
                with contextlib.suppress(LookupError):
                    ended.append(await ends(workflows, f"{id}+"))

    assert "done" in ended
    assert "expired" not in ended
