"""What workloads need of a store of any kind."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol
from unittest.mock import patch

from msgspec import Struct

from benchmarks.stopwatch import Counter
from flowstate import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["Address", "SharedStoreName", "Store", "StoreName", "counting_calls"]

SharedStoreName = Literal["sqlite", "postgres", "redis"]
StoreName = Literal["memory"] | SharedStoreName


class Address(Struct, frozen=True):
    """By which another process finds a store.

    Attributes:
        store: of which kind.
        where: the file, or the URL of the server.
        name: of the schema or the namespace; empty for a file.
    """

    store: SharedStoreName
    where: str
    name: str = ""

    def driver(self) -> Driver:
        """Return a driver that is not open yet."""
        match self.store:
            case "sqlite":
                return SQLiteDriver(self.where)
            case "postgres":
                return PostgresDriver(self.where, schema=self.name)
            case "redis":
                return RedisDriver(self.where, namespace=self.name)


class Store(Protocol):
    """One kind of store. Its places are empty at first, and gone at the end of the run.

    Attributes:
        name: of its kind.
        log: how many revisions the large one has.
        small_log: the same of the small one.
        commits: how many one task makes in a round.
        operations: how many there are of what is short, such as reading a page.
        is_shared: whether several processes may use one.
    """

    name: StoreName
    log: int
    small_log: int
    commits: int
    operations: int
    is_shared: bool

    def driver(self, place: str) -> Driver:
        """Return a driver on a place, not open unless others use the same one."""

    def address(self, place: str) -> Address:
        """Return where other processes find a place.

        Raises:
            LookupError: one process has it alone.
        """

    async def fill(self, place: str, states: int) -> None:
        """Write what ``filling`` says into an empty place that a driver has open."""

    def size(self, place: str) -> int:
        """Return how many bytes a place takes.

        Raises:
            LookupError: it cannot be told, since it is in the memory of this process.
        """

    def counting(self) -> AbstractContextManager[Counter]:
        """Count the statements that drivers send which are opened within."""


@contextmanager
def counting_calls(owner: type, method: str) -> Iterator[Counter]:
    """Count the calls of the method through which a client sends everything.

    Those of tasks that ran before do not count, such as what other drivers do in the background.
    """
    counter = Counter()
    original = getattr(owner, method)

    def counted(*arguments: Any, **options: Any) -> Any:
        if counter.is_current:
            counter()
        return original(*arguments, **options)

    with counter.counting(), patch.object(owner, method, counted):
        yield counter
