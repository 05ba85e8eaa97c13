"""Memory drivers that each break one promise, and the conformance cases that must notice."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import (
    DueQuery,
    NewDelay,
    Seen,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.errors import CompactedError, RevisionMismatchError
from flowstate.state import State
from tests.broken_base import Base
from tests.broken_due import (
    AnyFlow,
    DeadlinesOfTheLog,
    DeafToHeartbeats,
    DropsForAnyone,
    EarlyDelays,
    EveryClaimWins,
    ForgetsDelays,
    ForgetsReferences,
    HalfClaims,
    HeartbeatsGoBack,
    OldHeartbeats,
    ShortStalledPages,
    SilentOthers,
    StalledInAnyOrder,
)
from tests.broken_forgetting import (
    AnyId,
    CountsAlternatives,
    CountsForgotten,
    CountsTheLog,
    EndedIsIdle,
    ForgetsNothing,
    ForgottenStalls,
    HidesForgetting,
    KeepsForgotten,
    OneLife,
    OneLifeOnPages,
    OnlyPausedIsIdle,
    ShortIdlePages,
)
from tests.broken_keeping import KeepsNothing, KeepsOutdated
from tests.broken_timers import (
    DropsWhatIsClaimed,
    HoldersOfBefore,
    NeedsHolders,
    OldStatesOfTimers,
    PutsDropTimers,
    SilentTimers,
    TimersPostpone,
)

__all__ = ["BROKEN", "Base"]

TURNS = 3


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

    max_batch_size = 16

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        seen: dict[str, int] = {}
        for writes in batch:
            for put in writes.puts:
                stored = await self.get_state(put.id)
                if seen.setdefault(put.id, stored.rev if stored else 0) != put.rev:
                    return [RevisionMismatchError([put.id])] * len(batch)
        return await super().commit(batch)


class Holes(Base):
    """Takes revisions as a sequence does: some of them belong to no commit."""

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

    async def changed(self, seen: Seen) -> Seen:
        if seen == Seen():
            return await super().changed(seen)
        await asyncio.Event().wait()
        return seen


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
        before = (await self.get_due(DueQuery("delay", everything=True, limit=10_000))).due
        verdict = await self.apply(writes)
        moved = {state.id: state for state in verdict} if isinstance(verdict, tuple) else {}
        delays = tuple(
            NewDelay(moved[d.state.id], d.to, d.annotations, d.due, None, d.commit, "")
            for d in before
            if d.state.id in moved
        )
        if delays:
            await self.apply(Writes(f"kept by {writes.token}", delays=delays))
        return verdict


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
    """Takes a delay that is given once more for another one."""

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
        for rev in range(0, (await self.changed(Seen())).head, 5):
            await self.get_state("unknown", rev)
        return await self.apply(writes)


class UnfencedLeases(Base):
    """Ignores the fence of a holder that lost its lease without knowing."""

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
    LateRevisions: "watch_of_what_others_commit",
    SkippingPages: "revisions_are_dense watchers_opened_at_any_time_see_one_list",
    NoWakeup: "watch_of_what_others_commit",
    Aliasing: "defect_13_history_does_not_change_with_the_objects",
    RefusedDelay: "defect_01_refused_commit_leaves_no_delay_and_no_data",
    RefusedData: "defect_01_refused_commit_leaves_no_delay_and_no_data",
    SupersededDelay: "defect_05_thousands_of_delays_fire_once_each superseded_delays_vanish",
    EarlyDelays: "never_before_its_time",
    EveryClaimWins: "claim_has_one_holder claims_at_the_same_time",
    DropsForAnyone: "drop_is_for_the_holder",
    HalfClaims: "refused_claim_refuses_its_commit",
    AnyFlow: "due_delays_of_some_flows stalled_in_some_flows",
    SilentOthers: "due_delays_of_some_flows flows_that_nobody_runs",
    ForgetsReferences: "compaction_leaves_data_of_delays",
    DeadlinesOfTheLog: "deadline_after_the_clock_went_back",
    StaleLabels: "defect_10_removed_label_stays_removed",
    StaleLatest: "defect_10_removed_label_stays_removed",
    ClockTime: "time_never_goes_back defect_14_time_filters_follow_the_log",
    NoTokens: "token_of_a_delay_is_applied_once",
    CompactsLatest: "compacting_keeps_the_latest_revisions",
    SilentFloor: "compacting_keeps_the_latest_revisions",
    StaleReads: "threads_share_a_driver",
    StuckLock: "cancelled_commit_tells_the_truth",
    LostReply: "cancelled_commit_tells_the_truth",
    OldHeartbeats: "heartbeat_of_another_revision",
    DeafToHeartbeats: "heartbeat_postpones",
    HeartbeatsGoBack: "heartbeat_after_the_clock_went_back",
    ForgetsDelays: "stalled_after_the_delay",
    ShortStalledPages: "stalled_first_in_front",
    StalledInAnyOrder: "stalled_first_in_front",
    UnfencedLeases: "lease_fences_a_holder_that_was_asleep",
    KeepsNothing: "kept_delays_have_the_new_revision kept_states_stall_no_later",
    KeepsOutdated: "kept_delay_by_itself_puts_off_nothing kept_delays_have_the_new_revision",
    PutsDropTimers: "puts_keep_timers",
    TimersPostpone: "timers_postpone_nothing",
    HoldersOfBefore: "timer_takes_the_place_of_another",
    OldStatesOfTimers: "puts_keep_timers",
    SilentTimers: "timers_are_news",
    NeedsHolders: "timer_without_a_claim_is_dropped replay_sets_no_timer",
    DropsWhatIsClaimed: "timer_without_a_claim_is_dropped drop_is_for_the_holder",
    ForgetsNothing: "forgotten_state_has_no_latest_revision forgotten_id_begins_again",
    HidesForgetting: "forgetting_revision_is_in_the_log",
    KeepsForgotten: "forgotten_states_are_compacted many_come_and_go",
    ForgottenStalls: "forgetting_drops_delays",
    OneLife: "forgotten_id_begins_again forgets_of_a_batch",
    OneLifeOnPages: "forgotten_id_begins_again",
    AnyId: "revisions_of_one_state one_state_with_every_filter",
    CountsForgotten: "forgotten_state_has_no_latest_revision counts_of_states",
    CountsAlternatives: "counts_of_states",
    CountsTheLog: "counts_of_states",
    EndedIsIdle: "idle_states",
    OnlyPausedIsIdle: "idle_states",
    ShortIdlePages: "pages_of_idle_states_miss_nothing",
    LinearScan: "defect_12_commits_do_not_slow_down_with_the_log",
}
"""Each broken driver, and the cases that must fail on it."""
