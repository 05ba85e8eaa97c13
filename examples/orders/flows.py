"""The flows of an order: reserve, approve, charge, ship; and cancel, which undoes them."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from examples.orders.bank import Bank, BankError, CarrierError, ship
from examples.orders.orders import Order
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Noop,
    Receive,
    RetryPolicy,
    StateContext,
    Status,
    Transit,
)

BANK = "ORDERS_BANK"  # An environment variable: where the bank is.
LARGE = 10_000  # Cents, from which on an order needs approval,
ANSWER_WITHIN = timedelta(seconds=3)
STAGES = ("reserve", "approve", "charge", "ship", "cancel")
OUTCOMES = ("shipped", "cancelled", "sold out")
PATIENT = RetryPolicy(attempts=20, first=0.05, longest=1.0, on=BankError)

flows = FlowRegistry()


def bank() -> Bank:
    """Return the bank of this service."""
    return Bank(Path(os.environ[BANK]))


def order_id(id: str) -> str:
    """Return the id of the state of an order."""
    return f"order-{id}"


def stock_id(item: str) -> str:
    """Return the id of the state that keeps how much of an item there is."""
    return f"stock-{item}"


def go(ctx: StateContext, stage: str) -> Transit:
    """Send an order on, and show it at that stage."""
    ctx.set_label("stage", stage)
    return Transit(ctx, stage)


def close(ctx: StateContext, outcome: str) -> End:
    """End an order."""
    ctx.set_label("stage", outcome)
    return End(ctx)


@flows.flow
async def reserve(ctx: StateContext, engine: Engine) -> Command:
    """Take the goods out of stock, and send the order on, in one commit."""
    order = ctx.get(Order)

    def take(stock: StateContext) -> Command:
        left = stock.get(int) - order.quantity
        if left < 0:
            return close(ctx, "sold out")
        stock.put(left)
        return go(ctx, "approve" if order.cents > LARGE else "charge")

    await engine.update(stock_id(order.item), take)
    return Execute(ctx) if ctx.current.status is Status.ACTIVE else Noop()


@flows.flow
async def approve(ctx: StateContext, engine: Engine) -> Command:
    """Wait for an answer, but not for long."""
    wait = Receive(ctx, "approval", to="decide", timeout=ANSWER_WITHIN, timeout_to="decide")
    return Commit(wait)


@flows.flow
async def decide(ctx: StateContext, engine: Engine) -> Command:
    """Go on as the answer says, if there is one."""
    return Commit(go(ctx, "charge" if ctx.get(bool, "approval", default=False) else "cancel"))


@flows.flow(retry=PATIENT, on_failure="cancel")
async def charge(ctx: StateContext, engine: Engine) -> Command:
    """Take the money. The key is the same however often this runs, so the bank books once."""
    await asyncio.to_thread(bank().charge, ctx.effect_key, ctx.current.id, ctx.get(Order).cents)
    return Commit(go(ctx, "ship"))


@flows.flow("ship", retry=RetryPolicy(never=CarrierError), on_failure="cancel")
async def send_parcel(ctx: StateContext, engine: Engine) -> Command:
    """Send the parcel."""
    ship(ctx.get(Order).item)
    return Commit(close(ctx, "shipped"))


@flows.flow(retry=PATIENT)
async def cancel(ctx: StateContext, engine: Engine) -> Command:
    """Give the money back, if any was taken; then the goods, in the commit that ends the order."""
    await asyncio.to_thread(bank().refund, ctx.effect_key, ctx.current.id)
    order = ctx.get(Order)

    def put_back(stock: StateContext) -> Command:
        stock.put(stock.get(int) + order.quantity)
        return close(ctx, "cancelled")

    await engine.update(stock_id(order.item), put_back)
    return Noop()
