"""What a workload is: one piece of work, done by flowstate and by what it is compared with."""

from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

__all__ = ["Measure", "NotInstalledError", "Place", "Sample", "Side", "Workload"]

Role = Literal["limit", "peer", "small"]


class NotInstalledError(Exception):
    """A measure needs something that is not on this machine; the text says what.

    The run goes on without the side that raised it, and says so.
    """


class Sample(Struct, frozen=True, omit_defaults=True):
    """What one round has measured, for one unit of work.

    Attributes:
        value: seconds, or bytes where the workload says so; of latencies, the median.
        cpu: seconds of CPU that the client's process spent on it; ``None`` where that says nothing.
        statements: how many the store was sent; ``None`` where they are not counted.
        worst: of latencies, the 99th percentile. With it, the report shows no rate.
    """

    value: float
    cpu: float | None = None
    statements: float | None = None
    worst: float | None = None


Measure = Callable[[], Awaitable[Sample]]


class Place(Struct, frozen=True):
    """Where in which picture a figure stands; the report makes one picture of each kind.

    - "concurrency": units per second by how many tasks; one panel for each store, of the unit that
      its first workload has.
    - "growth": seconds by revisions in the log; one panel for each store.
    - "fan-out": seconds by how many watchers; one line for each store.
    - "peers": units per second, one bar for each side; give it no ``line``.

    Attributes:
        picture: which one.
        at: how far to the right: tasks, revisions, watchers.
        line: the name of the line, such as "commit"; for a limit, "" is its side's name. A line
            of "fan-out" has the name of its store.
    """

    picture: Literal["concurrency", "growth", "fan-out", "peers"]
    at: float = 0.0
    line: str = ""


class Side(Struct, frozen=True):
    """Something that ours is compared with, round by round.

    Attributes:
        name: such as "bare sqlite3", "DBOS, asyncio" or "1,000 revisions".
        role: what the store can do at most, another library, or ours, such as with a small log.
        measure: does the work once.
        mark: how many times its value ours may take at most; ``None`` if it is for information.
        place: where it stands in a picture. In pictures of concurrency and of peers, a side
            without one stands where ours does.
    """

    name: str
    role: Role
    measure: Measure
    mark: float | None = None
    place: Place | None = None


class Workload(Struct, frozen=True):
    """One piece of work.

    Attributes:
        name: what is done, without the store: "commits, 64 tasks".
        store: "memory", "sqlite", "postgres", "redis", or "" where there is none.
        unit: of what the value is: "commit", "chain", "page".
        ours: does the work once, with flowstate.
        others: what it is compared with.
        quantity: what the value is.
        mark: what the value of ours may be at most; ``None`` if it is for information.
        rounds: at most so many; less than others for what takes long.
        place: where it stands in a picture of the report; ``None`` if in none.
        cpu_mark: what the CPU of ours for one unit may be at most, in seconds.
        worst_mark: what the 99th percentile of ours may be at most, in seconds.
    """

    name: str
    store: str
    unit: str
    ours: Measure
    others: tuple[Side, ...] = ()
    quantity: Literal["seconds", "bytes"] = "seconds"
    mark: float | None = None
    rounds: int | None = None
    place: Place | None = None
    cpu_mark: float | None = None
    worst_mark: float | None = None

    @property
    def key(self) -> str:
        """What names it in files and on the command line."""
        return f"{self.store}: {self.name}" if self.store else self.name
