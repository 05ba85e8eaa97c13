"""An order as a workflow: payment, stock, an approval with a timeout, and what undoes them.

Run ``python -m examples.order_workflow orders.db`` and kill it while it waits for the approval;
run it again with ``--approve``, and the order goes on.
"""

import asyncio
import sys

from msgspec import Struct

from flowstate import Delayer, Engine, FlowRegistry, RetryPolicy, State, Status
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.workflow import (
    Cancelled,
    StepFailed,
    Workflows,
    effect_key,
    step,
    wait,
    workflow,
)
from flowstate.recovery import Recoverer


class Order(Struct):
    item: str
    cents: int
    undo: list[str] = []


class Approved(Struct):
    by: str


class OutOfStockError(Exception):
    """Asking again does not help."""


stock = {"tea": 1}
booked: dict[str, str] = {}  # Stands for the services: a key that they have seen is nothing new.


async def book(what: str, item: str = "") -> str:
    if item and not stock.get(item):
        raise OutOfStockError(item)
    return booked.setdefault(effect_key(), what)


@workflow("order", retry=RetryPolicy(attempts=1_000, never=OutOfStockError))
async def order(s: Order) -> str:
    try:
        s.undo.append("refund")  # Before the payment: what fails may have happened.
        await step(book, f"charge {s.cents}", name="charge")
        s.undo.append("put back")
        await step(book, f"reserve {s.item}", s.item, name="reserve")
        approved = await wait("approval", Approved, timeout=2 * 86_400)
        await step(book, f"ship {s.item}", name="ship")
    except (StepFailed, TimeoutError, Cancelled):
        while s.undo:
            await step(book, f"{s.undo[-1]} {s.item}", name="undo")
            s.undo.pop()
        raise
    else:
        return f"shipped, approved by {approved.by}"


def is_settled(state: State) -> bool:
    """Whether an order waits for its approval, or is over."""
    return state.status is not Status.ACTIVE


async def main(path: str, *options: str) -> None:
    """Order tea, and wait until it is shipped."""
    async with (
        Engine(SQLiteDriver(path), FlowRegistry()) as engine,
        Recoverer(engine),
        Delayer(engine),
        Workflows(engine, [order]) as workflows,
    ):
        await workflows.start(order, "order-1", Order("tea", 995))
        await engine.wait_for("order-1", until=is_settled)
        print(await workflows.explain("order-1"), flush=True)
        if "--approve" in options:  # With a key, so that a second click counts for nothing.
            await workflows.send("order-1", Approved("anna"), key="click-7")
        print(await workflows.result("order-1"), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
