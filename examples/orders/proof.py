"""Compares the orders with the books of the bank, and with what is left in stock."""

from collections import Counter
from collections.abc import Sequence

from examples.orders.bank import Books
from examples.orders.flows import OUTCOMES, order_id, stock_id
from examples.orders.orders import Order
from flowstate import Engine, Status

__all__ = ["faults"]


async def faults(engine: Engine, orders: Sequence[Order], stock: int, books: Books) -> list[str]:
    """Return what is wrong, a line for each; nothing if all is right."""
    found: list[str] = []
    left = Counter({order.item: stock for order in orders})
    for order in orders:
        id = order_id(order.id)
        state = await engine.get_state(id)
        outcome = state.labels["stage"]
        if state.status is not Status.ENDED or outcome not in OUTCOMES:
            found.append(f"{id} has not come to an end: {outcome}")
        charges, refunds = books.charges.get(id, []), books.refunds.get(id, [])
        is_shipped = outcome == "shipped"
        paid = ([order.cents], []) if is_shipped else ([order.cents],) * 2 if charges else ([], [])
        if (charges, refunds) != paid:
            found.append(f"{id}, {outcome}, was charged {charges} and refunded {refunds}")
        left[order.item] -= order.quantity * is_shipped
    for item, expected in left.items():
        there = (await engine.get_state(stock_id(item))).get(int)
        if there != expected:
            found.append(f"{there} of {item!r} are in stock, not {expected}")
    return found
