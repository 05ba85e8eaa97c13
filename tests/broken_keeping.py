"""Memory drivers that each break one promise about puts that keep delays."""

from msgspec.structs import replace

from flowstate.driver import Verdict, Writes
from tests.broken_base import Base

__all__ = ["KeepsNothing", "KeepsOutdated"]


class KeepsNothing(Base):
    """Takes every put for one that moves its state on."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, keeps=()))


class KeepsOutdated(Base):
    """Also keeps delays that have a state of their own."""

    async def commit_one(self, writes: Writes) -> Verdict:
        self._delays._alone.clear()
        return await self.apply(writes)
