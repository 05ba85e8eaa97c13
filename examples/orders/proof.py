"""Compares the orders with the books of the bank, and with what is left in stock."""

from collections import Counter
from collections.abc import Sequence

from examples.orders.bank import Books
from examples.orders.flows import stock_id
from examples.orders.orders import ITEMS, Order
from flowstate import Engine, Status

__all__ = ["faults"]

ENTRIES = {"shipped": (1, 0), "refunded": (1, 1), "cancelled": (0, 0), "sold out": (0, 0)}


async def faults(engine: Engine, orders: Sequence[Order], stock: int, books: Books) -> list[str]:
    """Return what is wrong, a line for each; nothing if all is right."""
    found: list[str] = []
    taken: Counter[str] = Counter()
    for order in orders:
        state = await engine.get_state(order.id)
        outcome = state.labels["stage"]
        if state.status is not Status.ENDED or outcome not in ENTRIES:
            found.append(f"{order.id} has not ended: {outcome}")
            continue
        charges, refunds = books.charges.get(order.id, []), books.refunds.get(order.id, [])
        if (len(charges), len(refunds)) != ENTRIES[outcome] or {*charges, *refunds} - {order.cents}:
            found.append(f"{order.id}, {outcome}, was charged {charges} and refunded {refunds}")
        if outcome == "shipped":
            taken[order.item] += order.quantity
    for item in ITEMS:
        left = (await engine.get_state(stock_id(item))).get(int)
        if left != stock - taken[item]:
            found.append(f"{left} of {item} are in stock, not {stock - taken[item]}")
    return found
