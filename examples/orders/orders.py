"""Orders, and the file that they come from: one in a line, ``id,item,quantity,cents``."""

import csv
import random
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, convert

Text = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[^\x00]*\Z")]
Number = Annotated[int, Meta(ge=1, le=10**9)]


class OrderFileError(Exception):
    """A file of orders cannot be used."""


class Order(Struct, frozen=True):
    """What a customer wants."""

    id: Text
    item: Text
    quantity: Number
    cents: Number


def read(path: Path) -> list[Order]:
    """Read a file of orders; raise ``OrderFileError`` where it is wrong."""
    orders: dict[str, Order] = {}
    line = 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.reader(file, strict=True), 1):
                fields = dict(zip(Order.__struct_fields__, map(str.strip, row), strict=True))
                order = convert(fields, Order, strict=False)
                if orders.setdefault(order.id, order) is not order:
                    raise OrderFileError(f"{path}:{line}: order {order.id!r} is there twice")
    except (csv.Error, ValueError) as error:  # ValidationError is one, and so is bad UTF-8.
        raise OrderFileError(f"{path}:{line}: not id,item,quantity,cents: {error}") from error
    except OSError as error:
        raise OrderFileError(f"{path}: {error.strerror}") from error
    return list(orders.values())


def sample(number: int, rng: random.Random) -> list[Order]:
    """Make orders up; the same ones for the same seed."""
    return [
        Order(
            f"{place:04}",
            rng.choices(("tea", "coffee", "cups", "anvil"), (8, 6, 5, 1))[0],
            rng.randint(1, 3),
            rng.choices((rng.randint(300, 9_000), rng.randint(10_001, 50_000)), (9, 1))[0],
        )
        for place in range(1, number + 1)
    ]
