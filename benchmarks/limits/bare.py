"""What a bare loop is."""

from typing import Protocol

from benchmarks.workload import Sample

__all__ = ["Bare"]


class Bare(Protocol):
    """Commits as fast as the store lets it, over connections that stay open.

    Attributes:
        one_name: what it does for one task.
        many_name: what it does for many; the same where the store has nothing faster.
    """

    one_name: str
    many_name: str

    async def one(self, count: int) -> Sample:
        """Commit so often, one after the other."""

    async def many(self, count: int) -> Sample:
        """Commit about so often, as many at once as is best."""
