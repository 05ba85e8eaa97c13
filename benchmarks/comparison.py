"""What a comparison is, and how much of everything is done."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

__all__ = ["SIZES", "Comparison", "Measure", "Sizes"]

Measure = Callable[[], Awaitable[float]]


class Sizes(Struct, frozen=True):
    """How much of everything.

    Attributes:
        rounds: of each comparison.
        memory: commits by one task.
        sqlite: the same.
        postgres: the same, and on Redis.
        memory_log: revisions of the large store.
        sqlite_log: the same.
        postgres_log: the same.
        redis_log: the same.
        operations: of each kind on stores that are filled.
    """

    rounds: int
    memory: int
    sqlite: int
    postgres: int
    memory_log: int
    sqlite_log: int
    postgres_log: int
    redis_log: int
    operations: int


SIZES = {
    "tiny": Sizes(1, 300, 64, 20, 1_000, 1_000, 1_000, 1_000, 20),
    "quick": Sizes(5, 100_000, 1_280, 300, 100_000, 30_000, 100_000, 50_000, 300),
    "full": Sizes(9, 100_000, 6_400, 1_000, 1_000_000, 300_000, 2_000_000, 1_000_000, 1_000),
}


class Comparison(Struct, frozen=True):
    """Two measures taken in turns.

    Attributes:
        name: what is done.
        unit: of what the seconds are.
        ours: with flowstate.
        limit: without it, or with it on a small log; ``None`` for a plain figure.
        mark: how many times the limit's seconds ours may take; for a plain figure, how many
            seconds or bytes.
    """

    name: str
    unit: str
    ours: Measure
    limit: Measure | None
    mark: float | None
