"""Orders, and the file that they come from: one in a line, ``id,item,quantity,cents``."""

import csv
import random
from pathlib import Path

from msgspec import Struct

__all__ = ["Approval", "Order", "read", "sample"]

ITEMS = ("tea", "coffee", "cups", "anvil")


class Order(Struct, frozen=True):
    """What a customer wants."""

    id: str
    item: str
    quantity: int
    cents: int


class Approval(Struct, frozen=True):
    """What somebody in charge has said to a large order."""

    granted: bool
    by: str


def read(path: Path) -> list[Order]:
    """Read a file of orders."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [Order(id, item, int(quantity), int(cents)) for id, item, quantity, cents in rows]


def sample(number: int, rng: random.Random) -> list[Order]:
    """Make orders up; the same ones for the same seed."""
    return [
        Order(
            f"order-{place:04}",
            rng.choices(ITEMS, (8, 6, 5, 1))[0],
            rng.randint(1, 3),
            rng.choices((rng.randint(300, 9_000), rng.randint(10_001, 50_000)), (9, 1))[0],
        )
        for place in range(1, number + 1)
    ]
