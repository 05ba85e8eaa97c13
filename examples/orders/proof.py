"""Compares the orders with the books of the bank, and with what is left in stock."""

from collections import Counter
from collections.abc import Mapping, Sequence

from examples.orders.bank import Entry
from examples.orders.flows import OUTCOMES, order_id, stock_id
from examples.orders.orders import Order
from flowstate import Engine, Status


async def faults(
    engine: Engine, orders: Sequence[Order], stock: int, books: Mapping[str, list[Entry]]
) -> list[str]:
    """Return what is wrong, a line for each; nothing if all is right."""
    found: list[str] = []
    left = Counter({order.item: stock for order in orders})
    for order in orders:
        id = order_id(order.id)
        state = await engine.get_state(id)
        outcome = state.labels["stage"]
        if state.status is not Status.ENDED or outcome not in OUTCOMES:
            found.append(f"{id} has not come to an end: {outcome}")
        charge, refund, is_shipped = (
            ("charge", order.cents),
            ("refund", order.cents),
            outcome == "shipped",
        )
        if books.get(id, []) not in ([[charge]] if is_shipped else [[], [charge, refund]]):
            found.append(f"{id}, {outcome}, has in the books: {books.get(id)}")
        left[order.item] -= order.quantity * is_shipped
    for item, expected in left.items():
        there = (await engine.get_state(stock_id(item))).get(int)
        if there != expected:
            found.append(f"{there} of {item!r} are in stock, not {expected}")
    return found
