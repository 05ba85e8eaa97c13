"""The flows of an order: reserve, approve, charge, ship; and give back, refund."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from examples.orders.bank import Bank, BankError, CarrierError, ship
from examples.orders.orders import Approval, Order
from flowstate import (
    CancelTimer,
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Noop,
    Receive,
    RetryPolicy,
    SetTimer,
    StateContext,
    Transit,
)

__all__ = ["APPROVAL_SECONDS", "STAGES", "bank", "flows", "stock_id"]

LARGE = 10_000  # Cents, from which on an order needs approval.
APPROVAL_SECONDS = 3.0
STAGES = (
    *("reserve", "approve", "charge", "ship", "give_back"),
    *("shipped", "refunded", "cancelled", "sold out"),
)

flows = FlowRegistry()
PATIENT = RetryPolicy(attempts=20, first=0.05, longest=1.0, on=BankError)


def bank() -> Bank:
    """Return the bank of this service."""
    return Bank(Path(os.environ["ORDERS_BANK"]))


def stock_id(item: str) -> str:
    """Return the id of the state that keeps how much of an item there is."""
    return f"stock-{item}"


def go(ctx: StateContext, to: str) -> Transit:
    """Send an order on, and show it at that stage."""
    ctx.set_label("stage", to)
    return Transit(ctx, to)


def close(ctx: StateContext, outcome: str) -> Commit:
    """End an order."""
    ctx.set_label("stage", outcome)
    return Commit(End(ctx))


@flows.flow
async def reserve(ctx: StateContext, engine: Engine) -> Command:
    """Take the goods out of stock, and send the order on, in one commit."""
    order = ctx.get(Order)

    def take(stock: StateContext) -> Transit:
        left = stock.get(int) - order.quantity
        if left < 0:
            return go(ctx, "sold_out")
        stock.put(left)
        return go(ctx, "approve" if order.cents > LARGE else "charge")

    await engine.update(stock_id(order.item), take)
    return Execute(ctx)


@flows.flow
async def sold_out(ctx: StateContext, engine: Engine) -> Command:
    """End an order that nothing was taken for."""
    return close(ctx, "sold out")


@flows.flow
async def approve(ctx: StateContext, engine: Engine) -> Command:
    """Wait for an answer, but not for long."""
    return Commit(
        SetTimer(ctx, "no answer", "give_back", after=timedelta(seconds=APPROVAL_SECONDS)),
        Receive(ctx, "approval", to="decided"),
    )


@flows.flow
async def decided(ctx: StateContext, engine: Engine) -> Command:
    """Go on as the answer says."""
    return Commit(
        CancelTimer(ctx, "no answer"),
        go(ctx, "charge" if ctx.get(Approval, "approval").granted else "give_back"),
    )


@flows.flow(retry=PATIENT, on_failure="give_back")
async def charge(ctx: StateContext, engine: Engine) -> Command:
    """Take the money. The key is the same however often this runs, so the bank books once."""
    await asyncio.to_thread(bank().charge, ctx.effect_key, ctx.current.id, ctx.get(Order).cents)
    return Commit(go(ctx, "ship"))


@flows.flow("ship", retry=RetryPolicy(never=CarrierError), on_failure="refund")
async def send_parcel(ctx: StateContext, engine: Engine) -> Command:
    """Send the parcel."""
    ship(ctx.get(Order).item)
    return close(ctx, "shipped")


@flows.flow(retry=PATIENT)
async def refund(ctx: StateContext, engine: Engine) -> Command:
    """Give the money back."""
    await asyncio.to_thread(bank().refund, ctx.effect_key, ctx.current.id, ctx.get(Order).cents)
    ctx.set_label("refunded", "yes")
    return Commit(go(ctx, "give_back"))


@flows.flow
async def give_back(ctx: StateContext, engine: Engine) -> Command:
    """Put the goods back into stock, and end the order, in one commit."""
    order = ctx.get(Order)

    def put_back(stock: StateContext) -> Commit:
        stock.put(stock.get(int) + order.quantity)
        return close(ctx, "refunded" if "refunded" in ctx.current.labels else "cancelled")

    await engine.update(stock_id(order.item), put_back)
    return Noop()
