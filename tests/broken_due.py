"""Memory drivers that each break one promise about what is due."""

from collections.abc import Sequence

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import Claim, DuePage, DueQuery, Heartbeat, Verdict, Writes
from flowstate.errors import ClaimLostError
from tests.broken_base import Base

__all__ = [
    "AnyFlow",
    "DeadlinesOfTheLog",
    "DeafToHeartbeats",
    "DropsForAnyone",
    "EarlyDelays",
    "EveryClaimWins",
    "ForgetsDelays",
    "ForgetsReferences",
    "HalfClaims",
    "HeartbeatsGoBack",
    "OldHeartbeats",
    "ShortStalledPages",
    "SilentOthers",
    "StalledInAnyOrder",
]


class EarlyDelays(Base):
    """Takes every delay for due."""

    async def get_due(self, query: DueQuery) -> DuePage:
        return await super().get_due(replace(query, everything=query.kind == "delay"))


class EveryClaimWins(Base):
    """Lets anyone claim a delay that another holder has claimed before."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.holders: dict[str, str] = {}

    async def commit_one(self, writes: Writes) -> Verdict:
        claims = tuple(replace(c, holder=self.holder(c)) for c in writes.claims)
        drops = tuple(replace(d, holder=self.holders.get(d.id, d.holder)) for d in writes.drops)
        return await self.apply(replace(writes, claims=claims, drops=drops))

    def holder(self, claim: Claim) -> str:
        return self.holders.setdefault(claim.id, claim.holder)


class DropsForAnyone(EveryClaimWins):
    """Removes a delay for those who have not claimed it."""

    def holder(self, claim: Claim) -> str:
        self.holders[claim.id] = claim.holder
        return claim.holder


class HalfClaims(Base):
    """Stores the rest of a commit whose claim is refused."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, ClaimLostError) and writes.puts:
            await self.apply(replace(writes, claims=()))
        return verdict


class AnyFlow(Base):
    """Has no regard for the flows that it is asked for."""

    async def get_due(self, query: DueQuery) -> DuePage:
        return await super().get_due(replace(query, flows=None))


class SilentOthers(Base):
    """Does not tell that there is something due for other flows."""

    async def get_due(self, query: DueQuery) -> DuePage:
        return await super().get_due(replace(query, others=False))


class ForgetsReferences(Base):
    """Lets compaction take the data of delays."""

    async def commit_one(self, writes: Writes) -> Verdict:
        delays = tuple(replace(delay, references=()) for delay in writes.delays)
        return await self.apply(replace(writes, delays=delays))


class DeadlinesOfTheLog(Base):
    """Counts the time of states from their stamp, which never goes back."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        self._standing._set_back.clear()
        return verdict


class OldHeartbeats(Base):
    """Takes heartbeats for revisions that are not the latest any more."""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        found = [await self.get_state(beat.id) for beat in heartbeats]
        newest = [
            replace(beat, rev=state.rev if state else beat.rev)
            for beat, state in zip(heartbeats, found, strict=True)
        ]
        return await super().beat(newest)


class DeafToHeartbeats(Base):
    """Acknowledges heartbeats, and lets states stall all the same."""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        return await super().beat([replace(beat, seconds=None) for beat in heartbeats])


class HeartbeatsGoBack(Base):
    """Says of each heartbeat what the clock said, which may be less than before."""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        found = await super().beat(heartbeats)
        for beat in heartbeats:
            self._deadlines.beats[beat.id] = self._now(), beat.note
        return found


class ForgetsDelays(Base):
    """Lets a state stall although a delay that was stored for it later is not due yet."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        for delay in writes.delays:
            if delay.put is None:
                beat = Heartbeat(delay.state.id, delay.state.rev, 60.0, "")
                await super().beat([beat])
        return verdict


class ShortStalledPages(Base):
    """Says that there is nothing more behind the first page of stalled states."""

    async def get_due(self, query: DueQuery) -> DuePage:
        found = await super().get_due(query)
        return replace(found, more=False) if query.kind == "stall" else found


class StalledInAnyOrder(Base):
    """Has no regard for what stalled first."""

    async def get_due(self, query: DueQuery) -> DuePage:
        found = await super().get_due(query)
        return replace(found, due=found.due[::-1]) if query.kind == "stall" else found
