"""Memory drivers that each break one promise, and the conformance cases that must notice."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import (
    DelayedStates,
    DelayQuery,
    Heartbeat,
    NewDelay,
    StalledQuery,
    StalledStates,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.errors import CompactedError, RevisionMismatchError
from flowstate.state import State

__all__ = ["BROKEN", "Base"]

TURNS = 3


class Base(MemoryDriver):
    """Commits the batch one by one, so that what follows can break one commit."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.serial = itertools.count(1)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        return [await self.commit_one(writes) for writes in batch]

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(writes)

    async def apply(self, writes: Writes) -> Verdict:
        (verdict,) = await super().commit([writes])
        return verdict

    async def get_states(self, query: StateQuery) -> States:
        await asyncio.sleep(0)  # reason: a reader that is never satisfied asks again and again
        return await super().get_states(query)


class HalfDone(Base):
    """Keeps those states of a refused commit that were not refused themselves."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, RevisionMismatchError):
            good = tuple(put for put in writes.puts if put.id not in verdict.ids)
            await self.apply(Writes(f"half of {writes.token}", good))
        return verdict


class Unchecked(Base):
    """The last one to write wins."""

    async def commit_one(self, writes: Writes) -> Verdict:
        puts = []
        for put in writes.puts:
            stored = await self.get_state(put.id)
            puts.append(replace(put, rev=stored.rev if stored else 0))
        return await self.apply(replace(writes, puts=tuple(puts)))


class UncheckedChecks(Base):
    """Ignores the conditions of a commit."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, checks=()))


class UncheckedNeeds(Base):
    """Ignores that a commit refers to data that is not there."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, needs=()))


class FirstMismatchOnly(Base):
    """Names one of the states for which a commit was refused."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, RevisionMismatchError):
            return RevisionMismatchError(verdict.ids[:1])
        return verdict


class OneVerdict(Base):
    """Refuses a whole batch because of one commit."""

    batch_limit = 16

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        seen: dict[str, int] = {}
        for writes in batch:
            for put in writes.puts:
                stored = await self.get_state(put.id)
                if seen.setdefault(put.id, stored.rev if stored else 0) != put.rev:
                    return [RevisionMismatchError([put.id])] * len(batch)
        return await super().commit(batch)


class Holes(Base):
    """Takes revisions as a sequence does: some of them are given to nobody."""

    async def commit_one(self, writes: Writes) -> Verdict:
        number = next(self.serial)
        if number % 100 == 0:
            await self.apply(Writes(f"hole {number}", (State(f"hole {number}"),)))
        return await self.apply(writes)

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        return replace(found, states=[s for s in found.states if not s.id.startswith("hole ")])


class LateRevisions(Base):
    """Some revisions become visible after their successors."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.hidden: set[int] = set()

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, tuple) and next(self.serial) % 5 == 0:
            self.hidden.update(state.rev for state in verdict)
            self.show_later(verdict, TURNS)
        return verdict

    def show_later(self, states: Sequence[State], turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self.show_later, states, turns - 1)
        else:
            self.hidden.difference_update(state.rev for state in states)

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        return replace(found, states=[s for s in found.states if s.rev not in self.hidden])


class SkippingPages(Base):
    """Full pages lack their last revision, and the next page starts after it."""

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        return replace(found, states=found.states[:-1]) if found.more else found


class NoWakeup(Base):
    """Never tells that something was committed."""

    async def wait(self, rev: int) -> None:
        del rev
        await asyncio.Event().wait()


class Aliasing(Base):
    """Hands out mappings that can be changed."""

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        found = await super().get_state(id, rev)
        return None if found is None else replace(found, labels=dict(found.labels))


class RefusedDelay(Base):
    """Stores the delays of a commit apart from it."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        if isinstance(verdict, RevisionMismatchError):
            delays = tuple(replace(delay, put=None) for delay in writes.delays)
            await self.apply(Writes(f"delays of {writes.token}", delays=delays))
        return verdict


class RefusedData(Base):
    """Stores the data of a commit apart from it."""

    async def commit_one(self, writes: Writes) -> Verdict:
        await self.apply(Writes(f"data of {writes.token}", data=writes.data))
        return await self.apply(writes)


class SupersededDelay(Base):
    """Keeps the delays of a state that moved on, and fires them."""

    async def commit_one(self, writes: Writes) -> Verdict:
        before = (await self.get_delayed(DelayQuery(everything=True, limit=10_000))).delayed
        verdict = await self.apply(writes)
        moved = {state.id: state for state in verdict} if isinstance(verdict, tuple) else {}
        delays = tuple(
            NewDelay(moved[d.state.id], d.to, d.annotations, d.due, None, d.commit)
            for d in before
            if d.state.id in moved
        )
        if delays:
            await self.apply(Writes(f"kept by {writes.token}", delays=delays))
        return verdict


class EarlyDelays(Base):
    """Takes every delay for due."""

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        return await super().get_delayed(replace(query, everything=True))


class EveryClaimWins(Base):
    """Lets everybody claim a delay, whoever has claimed it before."""

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        del due  # Here is the bug.
        page = await self.get_delayed(DelayQuery(everything=True, limit=1_000))
        for delay in page.delayed:
            if delay.id == id:
                await super().claim_delay(id, delay.due, seconds)
        return page.now + timedelta(seconds=seconds)


class StaleLabels(Base):
    """Finds states by labels that their latest revision no longer has."""

    async def get_states(self, query: StateQuery) -> States:
        if not (query.latest_only and query.labels):
            return await super().get_states(query)
        found = await super().get_states(replace(query, latest_only=False))
        latest = {state.id: state for state in found.states}
        return replace(found, states=sorted(latest.values(), key=lambda state: state.rev))


class StaleLatest(Base):
    """Finds the latest revisions a commit too late."""

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        if not query.latest_only or not found.states:
            return found
        return replace(found, states=found.states[:-1])


class ClockTime(Base):
    """Stamps revisions with what the clock says, even if it was put back."""

    async def commit_one(self, writes: Writes) -> Verdict:
        self._last_time = datetime.min.replace(tzinfo=UTC)
        return await self.apply(writes)


class NoTokens(Base):
    """Does not recognise a replay."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, token=f"{writes.token}/{next(self.serial)}"))


class CompactsLatest(Base):
    """Removes everything below the floor."""

    floor = 1

    async def compact(self, before_rev: int) -> int:
        self.floor = max(self.floor, before_rev)
        return await super().compact(before_rev)

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        found = await super().get_state(id, rev)
        return found if found is not None and found.rev >= self.floor else None


class SilentFloor(Base):
    """Reads on after a hole as if there were none."""

    async def get_states(self, query: StateQuery) -> States:
        try:
            return await super().get_states(query)
        except CompactedError:
            return await super().get_states(replace(query, gaps_below=None))


class StaleReads(Base):
    """Returns what it has read before, once more after each commit."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.cache: dict[str, State | None] = {}

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        found = await super().get_state(id, rev)
        if rev is not None:
            return found
        before, self.cache[id] = self.cache.get(id, None), found
        return before


class StuckLock(Base):
    """Keeps its lock when a commit is cancelled."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.mutex = asyncio.Lock()

    async def commit_one(self, writes: Writes) -> Verdict:
        await self.mutex.acquire()
        await asyncio.sleep(0)  # reason: the caller can be cancelled here
        verdict = await self.apply(writes)
        self.mutex.release()
        return verdict


class LostReply(Base):
    """Commits, and can be cancelled before it has said so."""

    async def commit_one(self, writes: Writes) -> Verdict:
        verdict = await self.apply(writes)
        await asyncio.sleep(0)  # reason: the caller can be cancelled here
        return verdict


class LinearScan(Base):
    """Looks at a part of the log for each commit, and the more the longer it is."""

    async def commit_one(self, writes: Writes) -> Verdict:
        for rev in range(0, await self.head(), 5):
            await self.get_state("nobody", rev)
        return await self.apply(writes)


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

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        return replace(await super().get_stalled(query), more=False)


class StalledInAnyOrder(Base):
    """Has no regard for what stalled first."""

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        found = await super().get_stalled(query)
        return replace(found, states=found.states[::-1])


class UnfencedLeases(Base):
    """Ignores the fence of whoever lost a lease without knowing."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, checks=()))


BROKEN: dict[type[Base], str] = {
    HalfDone: "batch_is_judged_in_order defect_01_refused_commit_leaves_no_delay_and_no_data",
    Unchecked: "increments_are_never_lost opposite_orders_do_not_deadlock",
    UncheckedChecks: "check_prevents_write_skew",
    UncheckedNeeds: "batch_keeps_what_was_refused_apart",
    FirstMismatchOnly: "opposite_orders_do_not_deadlock largest_commits_stay_whole",
    OneVerdict: "batch_is_judged_in_order",
    Holes: "revisions_are_dense",
    LateRevisions: "watchers_opened_at_any_time_see_one_list",
    SkippingPages: "revisions_are_dense watchers_opened_at_any_time_see_one_list",
    NoWakeup: "watchers_opened_at_any_time_see_one_list",
    Aliasing: "defect_13_history_does_not_change_with_the_objects",
    RefusedDelay: "defect_01_refused_commit_leaves_no_delay_and_no_data",
    RefusedData: "defect_01_refused_commit_leaves_no_delay_and_no_data",
    SupersededDelay: "defect_05_thousands_of_delays_fire_once_each superseded_delays_vanish",
    EarlyDelays: "never_before_its_time",
    EveryClaimWins: "defect_05_claimed_delays_fire_once_each",
    StaleLabels: "defect_10_removed_label_stays_removed",
    StaleLatest: "defect_10_removed_label_stays_removed",
    ClockTime: "time_never_goes_back defect_14_time_filters_follow_the_log",
    NoTokens: "token_is_applied_once token_of_a_delay_is_applied_once",
    CompactsLatest: "compacting_keeps_the_latest_revisions",
    SilentFloor: "compacting_keeps_the_latest_revisions",
    StaleReads: "threads_share_a_driver",
    StuckLock: "cancelled_commit_tells_the_truth",
    LostReply: "cancelled_commit_tells_the_truth",
    OldHeartbeats: "heartbeat_of_another_revision",
    DeafToHeartbeats: "heartbeat_postpones recovery_waits_for_what_is_alive",
    ForgetsDelays: "stalled_after_the_delay",
    ShortStalledPages: "stalled_first_in_front",
    StalledInAnyOrder: "stalled_first_in_front",
    UnfencedLeases: "lease_fences_a_holder_that_was_asleep",
    LinearScan: "defect_12_commits_do_not_slow_down_with_the_log",
}
"""Each broken driver, and the cases that must fail on it."""
