"""The bare loop in memory: a dict, a list, and one await."""

from datetime import datetime

from benchmarks.limits.bare import Bare
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample

__all__ = ["BareMemory"]


class BareState:
    """A slotted object with the fields that a state has."""

    __slots__ = ("annotations", "committed_at", "id", "labels", "rev", "status", "to")

    def __init__(
        self,
        id: str,
        rev: int,
        labels: dict[str, str] | None,
        annotations: dict[str, str] | None,
        to: str,
        status: str,
        committed_at: datetime | None,
    ) -> None:
        self.id = id
        self.rev = rev
        self.labels = labels
        self.annotations = annotations
        self.to = to
        self.status = status
        self.committed_at = committed_at


class BareMemory(Bare):
    """Checks a dict, puts a slotted object, appends to a list, awaits once."""

    one_name = many_name = "bare dict and list"

    async def one(self, count: int) -> Sample:
        latest: dict[str, int] = {}
        log: list[BareState] = []
        watch = Stopwatch()
        for rev in range(count):
            if latest.get("a", 0) != rev:
                raise AssertionError
            state = BareState("a", rev + 1, None, None, "x", "active", None)
            latest["a"] = rev + 1
            log.append(state)
            await _nothing()
        return watch.sample(count)

    async def many(self, count: int) -> Sample:
        return await self.one(count)


async def _nothing() -> None:
    pass
