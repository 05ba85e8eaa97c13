"""Bugs to plant in the core, besides those of ``tests/planted_bugs.py``."""

import asyncio
import contextlib
import math
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import committing, context, runtime
from flowstate.commands import Check, Command, Commit, Execute, Noop, Retry, Unstack
from flowstate.committing import Committer
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import DelayedState, Liveness, Verdict
from flowstate.engine import Engine
from flowstate.errors import DriverError, FlowstateError, RevisionMismatchError
from flowstate.executions import heartbeats
from flowstate.executions.execution import Note, read_note
from flowstate.executions.heartbeats import Heartbeats
from flowstate.executions.pool import Slot
from flowstate.ground.batching import Batcher, Pending
from flowstate.ground.tasks import note_outcome
from flowstate.log.watch import Watch
from flowstate.operations.claimed_delay import ClaimedDelay
from flowstate.planning import draft
from flowstate.planning.plan import Plan
from flowstate.recovery import Lease, Recoverer, lease, recoverer
from flowstate.recovery.policy import attempt, attempt_annotations
from flowstate.recovery.throttle import AttemptLimiter
from flowstate.state import State, Status
from tests.proof.bug import CASE_LIMIT, Bug, Plant, Trial

__all__ = ["BUGS"]


# Commits


def contexts_believe_refused_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context goes on from steps that were refused."""
    settle = Plan.settle

    def settling(self: Plan, verdict: Verdict) -> None:
        if isinstance(verdict, RevisionMismatchError):
            self.apply()
        settle(self, verdict)

    monkeypatch.setattr(Plan, "settle", settling)


def cancelled_commits_count_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who is cancelled goes on from the old revision, although its commit has happened."""

    async def withdraw(self: Batcher[Any, Any], pending: Pending) -> None:
        pending.settle = None
        note_outcome(pending.done)

    monkeypatch.setattr(Batcher, "withdraw", withdraw)


def checks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit does not depend on the states that it has only read."""
    add = Plan.add

    def adding(self: Plan, command: Command[Any]) -> None:
        add(self, Noop() if isinstance(command, Check) else command)

    monkeypatch.setattr(Plan, "add", adding)


def mappings_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who changes a dict that a state was made with changes its history."""
    for module in (committing, context, draft, runtime):
        monkeypatch.setattr(module, "frozen", lambda state: state)
    for module in (committing, draft):
        monkeypatch.setattr(module, "checked", lambda state, *_, **__: state)


def stacked_revisions_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that was stacked by its own commit comes back without its revision."""

    async def unstack(self: Committer, plan: Plan, command: Unstack) -> None:
        plan.unstack(command)

    monkeypatch.setattr(Committer, "unstack", unstack)


def closing_waits_for_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine closes its store while commits are on their way to it."""

    async def drain(self: Committer, seconds: float) -> bool:
        return True

    monkeypatch.setattr(Committer, "drain", drain)


# Watches


def watches_pass_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch goes on behind what compaction has taken, and says nothing."""
    read = Watch._read_page

    async def read_page(self: Watch) -> None:
        self._query = replace(self._query, gaps_below=None)
        await read(self)

    monkeypatch.setattr(Watch, "_read_page", read_page)


def first_alternative_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch for one of several labels sleeps through those after the first."""
    original = Watch.__init__

    def init(self: Watch, *args: Any) -> None:
        original(self, *args)
        self.topics = self.topics[:1]

    monkeypatch.setattr(Watch, "__init__", init)


# Delays


def delays_fire_without_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delayer that sees a delay executes it."""

    async def fire_one(self: Delayer, delay: DelayedState) -> str:
        await self._engine.do(Execute(self._engine.draft_delay(delay)))
        return "settled"

    monkeypatch.setattr(Delayer, "_fire_one", fire_one)


def held_delays_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay whose flow is over fires again after its lease."""

    async def drop(self: ClaimedDelay) -> None:
        pass

    monkeypatch.setattr(ClaimedDelay, "_drop", drop)


def lost_renewals_lose_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """One renewal whose reply is lost stops the execution of a delay."""
    renew = ClaimedDelay._renew_once

    async def renew_once(self: ClaimedDelay) -> bool:
        try:
            return await renew(self)
        except DriverError:
            return False

    monkeypatch.setattr(ClaimedDelay, "_renew_once", renew_once)


# Recovery


def attempts_after_their_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that kills its process is executed without end, since no attempt of it counts."""
    counting: set[asyncio.Task[None]] = set()

    async def begin(self: Recoverer, state: State, note: Note, slot: Slot) -> None:
        ctx = StateContext(state)
        annotations = attempt_annotations(state, self._chance)
        await self._engine.do(Retry(ctx, annotations))  # Here is the bug: it is not committed.
        self._done["added"] += attempt(ctx.current) == 1
        self._done["retried"] += 1
        outcome = await self._engine.begin(ctx, slot)
        outcome.add_done_callback(partial(self._ended, ctx.current))
        self._limiter.add(outcome)
        task = asyncio.create_task(count(self, outcome, state, annotations))
        counting.add(task)
        task.add_done_callback(counting.discard)

    async def count(
        self: Recoverer,
        outcome: "asyncio.Future[BaseException | None]",
        state: State,
        annotations: dict[str, str],
    ) -> None:
        await asyncio.wait([outcome])
        with contextlib.suppress(FlowstateError):
            latest = await self._engine.get_state(state.id)
            if latest.transition.to == state.transition.to and latest.status is Status.ACTIVE:
                retry = Retry(StateContext(latest), annotations)
                await self._engine.do(Commit(self._lease.check(), retry))

    monkeypatch.setattr(Recoverer, "_begin", begin)


def attempts_have_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What always fails is tried again without end."""
    monkeypatch.setattr(recoverer, "decide", lambda _state, **_: "retry")


def attempts_have_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash everything is executed again at once."""
    monkeypatch.setattr(AttemptLimiter, "_is_busy", lambda _: False)


def attempts_wait_for_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a queue when its process dies has been counted for nothing."""
    monkeypatch.setattr(Engine, "reserve", lambda _: Slot(object()))


def recovery_without_a_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was asleep executes what its successor executes."""
    monkeypatch.setattr(Lease, "check", lambda _: Noop())


def lease_outlives_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that cannot reach the store holds the lease at the same time as the next one."""
    monkeypatch.setattr(lease, "STEP_DOWN_AT", 2.0)


def standby_counts_to_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that stood still between a reply and its reading takes the lease too early."""
    is_free = Lease._is_free

    def is_free_now(self: Lease, liveness: Liveness, _asked_at: float, now: float) -> bool:
        return is_free(self, liveness, now, now)

    monkeypatch.setattr(Lease, "_is_free", is_free_now)


def stalled_states_are_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat revives a state that another engine is about to take over."""
    monkeypatch.setattr(heartbeats, "_until_it_stalls", lambda _liveness: math.inf)


def stops_hand_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine that stops has interrupted waits until it stalls."""
    monkeypatch.setattr(Heartbeats, "hand_over", lambda _self, _execution: None)


def hand_overs_count_as_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is ended by force after a few deployments."""

    def read(text: str) -> Note:
        return replace(read_note(text), handed_over=False)

    monkeypatch.setattr(recoverer, "read_note", read)


def _bug(plant: Plant, *trials: Trial, store: str = "memory") -> Bug:
    return Bug(plant.__name__, plant.__doc__ or "", "core", trials, plant, store)


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


STANDBY = "tests/test_simulation.py::test_a_standby_that_stood_still_takes_no_lease_by_an_old_reply"
SLOTS = "tests/test_recovery.py::test_no_attempt_waits_for_its_turn_in_the_engine"
LIMITER = "tests/test_recovery.py::test_no_more_run_at_once_than_allowed"
CONFIRMATION = (
    "tests/test_heartbeats.py::test_one_that_stalls_soon_gets_a_new_revision_before_its_flow_begins"
)
BUGS = (
    _bug(contexts_believe_refused_commits, _case("defect_02_failed_commit_leaves_contexts_alone")),
    _bug(
        cancelled_commits_count_as_failed,
        _case("cancelled_commit_tells_the_truth"),
        store="sqlite",
    ),
    _bug(checks_are_left_out, _case("check_prevents_write_skew")),
    _bug(mappings_are_shared, _case("defect_13_history_does_not_change_with_the_objects")),
    _bug(stacked_revisions_are_believed, _case("stacked_with_its_own_commit")),
    _bug(closing_waits_for_no_commit, _case("closing_waits_for_commits_on_their_way")),
    _bug(watches_pass_holes, _case("watch_below_the_floor", "compaction_under_a_watch")),
    _bug(first_alternative_wakes, _case("watch_wakes_for_each_alternative", limit=3.0)),
    _bug(delays_fire_without_a_commit, _case("two_delayers_in_one_process")),
    _bug(held_delays_stay, _case("delay_without_commit_of_what_stays")),
    _bug(lost_renewals_lose_the_lease, _case("renewals_that_fail_for_a_while", limit=3.0)),
    _bug(attempts_after_their_run, _case("recovery_of_a_flow_that_fails_at_first")),
    _bug(attempts_have_no_limit, _case("recovery_of_a_flow_that_always_fails", limit=3.0)),
    _bug(attempts_have_no_bound, Trial("tests", (LIMITER,))),
    _bug(attempts_wait_for_their_place, Trial("tests", (SLOTS,))),
    _bug(recovery_without_a_fence, _case("recovery_by_a_leader_that_was_asleep")),
    _bug(lease_outlives_its_time, _case("lease_is_left_before_another_takes_it")),
    _bug(standby_counts_to_the_reading, Trial("tests", (STANDBY,))),
    _bug(stalled_states_are_confirmed, Trial("tests", (CONFIRMATION,))),
    _bug(stops_hand_nothing_over, _case("stop_hands_over", limit=5.0)),
    _bug(hand_overs_count_as_attempts, _case("stop_hands_over", limit=5.0)),
)
