"""Memory drivers that each break one promise about timers."""

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import DuePage, DueQuery, Verdict, Writes
from flowstate.drivers.memory.due import due_of
from flowstate.state import State
from tests.broken_base import Base

__all__ = [
    "DropsWhatIsClaimed",
    "HoldersOfBefore",
    "NeedsHolders",
    "OldStatesOfTimers",
    "PutsDropTimers",
    "SilentTimers",
    "TimersPostpone",
]


class PutsDropTimers(Base):
    """Takes the timers of a state for delays of its revision."""

    async def commit_one(self, writes: Writes) -> Verdict:
        before = (await self.get_due(DueQuery("delay", everything=True, limit=10_000))).due
        verdict = await self.apply(writes)
        if isinstance(verdict, tuple):
            moved, own = {state.id for state in verdict}, {timer.id for timer in writes.timers}
            for each in before:
                if each.timer and each.state.id in moved and each.id not in own:
                    self._delays._remove(each.id)
        return verdict


class TimersPostpone(Base):
    """Lets a state stall no earlier than its timers allow, as if they were delays."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, tuple):
            for timer in writes.timers:
                self._postpone(verdict[timer.put], due_of(timer, self._now()))
        return verdict


class HoldersOfBefore(Base):
    """Leaves a timer that is set again to the holder of the one before."""

    async def commit_one(self, writes: Writes) -> Verdict:
        holders = dict(self._delays._holders)
        verdict = await self.apply(writes)
        for timer in writes.timers:
            if timer.id in holders:
                self._delays._holders[timer.id] = holders[timer.id]
        return verdict


class OldStatesOfTimers(Base):
    """Shows a timer with the revision that set it."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.states: dict[str, State] = {}

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, tuple):
            self.states |= {timer.id: verdict[timer.put] for timer in writes.timers}
        return verdict

    async def get_due(self, query: DueQuery) -> DuePage:
        page = await super().get_due(query)
        due = [replace(each, state=self.states.get(each.id, each.state)) for each in page.due]
        return replace(page, due=due)


class SilentTimers(Base):
    """Does not tell those who wait for delays that there is a timer."""

    async def commit_one(self, writes: Writes) -> Verdict:
        before = self._due_count
        verdict = await self.apply(writes)
        if writes.timers:
            self._due_count = before
        return verdict


class NeedsHolders(Base):
    """Removes nothing for those who have not claimed it."""

    async def commit_one(self, writes: Writes) -> Verdict:
        drops = tuple(drop for drop in writes.drops if drop.holder)
        return await self.apply(replace(writes, drops=drops))


class DropsWhatIsClaimed(Base):
    """Removes what another holder has claimed, when it is asked without a holder."""

    async def commit_one(self, writes: Writes) -> Verdict:
        holders = self._delays._holders
        drops = tuple(
            replace(drop, holder=drop.holder or holders.get(drop.id, "")) for drop in writes.drops
        )
        return await self.apply(replace(writes, drops=drops))
