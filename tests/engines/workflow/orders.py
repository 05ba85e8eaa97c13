"""An order that is charged, approved and shipped, and a kitchen of small workflows around it."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec

from flowstate import Driver, Engine, FakeClock, FlowRegistry, RetryPolicy
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow import Timeout, all_of, each, step, wait, workflow
from flowstate.engines.workflow.workflows import Workflows
from flowstate.testing import open_workflows, stands_at

__all__ = [
    "Approved",
    "Order",
    "Shop",
    "count_up",
    "opened",
    "order",
    "parcel",
    "parcels",
    "ship",
    "shipped",
    "shop",
    "stands",
]

SECONDS = 20.0


class Order(msgspec.Struct):
    cart: list[str]
    by: str = ""


class Approved(msgspec.Struct):
    by: str


class Parcel(msgspec.Struct):
    item: str


class Shop:
    """What the steps do, seen from outside.

    Attributes:
        did: name and key of each call.
        broken: names of what fails.
        held: what does not return before it is set, by name.
        begun: set when something was called, by name.
    """

    def __init__(self) -> None:
        self.did: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.held: dict[str, asyncio.Event] = {}
        self.begun = defaultdict[str, asyncio.Event](asyncio.Event)

    async def do(self, name: str) -> str:
        self.did.append((name, effect_key()))
        self.begun[name].set()
        if name in self.held:
            await self.held[name].wait()
        if name in self.broken:
            raise ConnectionError(f"{name} is down")
        return f"{name} {len(self.did)}"

    def names(self) -> list[str]:
        return [name for name, _ in self.did]

    def keys(self, name: str) -> list[str]:
        return [key for each, key in self.did if each == name]


shop = Shop()
stands = partial(stands_at, timeout=SECONDS)


async def charge(cart: list[str]) -> str:
    return await shop.do("charge")


async def ship(item: str) -> str:
    return await shop.do(f"ship {item}")


@workflow("order", retry=RetryPolicy(attempts=3, first=60.0, jitter=False))
async def order(s: Order) -> str:
    """Charge, wait for an approval, and ship."""
    receipt = await step(charge, s.cart)
    match await wait("approval", Approved, Timeout(minutes=10)):
        case Approved(by=who):
            s.by = who
        case Timeout():
            return "expired"
    for item in s.cart:
        await step(ship, item)
    return f"{receipt} by {s.by}"


@order.update
def rename(s: Order, by: str) -> str:
    """Change who has ordered."""
    if not by:
        raise ValueError("a name is needed")
    before, s.by = s.by, by
    return before


@workflow("parcel")
async def parcel(s: Parcel) -> str:
    await wait("sent", Approved)
    return await step(ship, s.item)


@workflow("parcels")
async def parcels(s: Order) -> list[str]:
    sent = await each(parcel, [Parcel(item) for item in s.cart])
    both = await all_of(wait("paid", Approved, name="paid"), step(charge, s.cart))
    return [*sent, str(len(both))]


@workflow("shipped")
async def shipped(s: Order) -> list[str]:
    return await each(parcel, [Parcel(item) for item in s.cart], limit=3)


@workflow("count_up")
async def count_up(s: dict[str, int], to: int) -> int:
    n = 0
    while n < to:
        await wait("tick", Approved)
        n = n + 1
    return n


@contextlib.asynccontextmanager
async def opened(
    *codes: Code, driver: Driver | None = None, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[Workflows]:
    """Open an engine with a delayer and workflows, and a shop where nothing has happened."""
    shop.__init__()  # type: ignore[misc]
    clock = clock or FakeClock()
    engine = Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock)
    codes = codes or (order, parcels, parcel, shipped, count_up)
    async with open_workflows(*codes, engine=engine, **options) as workflows:
        yield workflows
