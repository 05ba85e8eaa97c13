"""Bugs to plant in the core, beside those of ``tests/planted_bugs.py``."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import commit, context, feed, keeper
from flowstate.commands import Check, Command, Commit, Execute, Noop, Retry, Unstack
from flowstate.commit import Plan
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import DelayedState, Liveness, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import FlowstateError, RevisionMismatchError
from flowstate.executions import Place
from flowstate.group_commit import GroupCommit
from flowstate.held_delay import HeldDelay
from flowstate.recovery import Lease, Recoverer, lease, recoverer
from flowstate.recovery.admission import Admission
from flowstate.recovery.policy import attempt, attempt_annotations
from flowstate.state import State, Status
from flowstate.store import Store
from flowstate.watch import Watch
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
    committing = GroupCommit.commit

    async def impatient(
        self: GroupCommit, writes: Writes, settle: Callable[[Verdict], None]
    ) -> None:
        is_cancelled = False

        def settle_unless_cancelled(verdict: Verdict) -> None:
            if not is_cancelled:
                settle(verdict)

        work = asyncio.ensure_future(committing(self, writes, settle_unless_cancelled))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            is_cancelled = True
            raise

    monkeypatch.setattr(GroupCommit, "commit", impatient)


def checks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit does not depend on the states that it has only read."""
    add = Plan.add

    def adding(self: Plan, command: Command[Any]) -> None:
        add(self, Noop() if isinstance(command, Check) else command)

    monkeypatch.setattr(Plan, "add", adding)


def mappings_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes a dict that a state was made with changes its history."""
    monkeypatch.setattr(context, "frozen", lambda state: state)
    monkeypatch.setattr(commit, "frozen", lambda state: state)


def stacked_revisions_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that was stacked by its own commit comes back without its revision."""

    async def unstack(self: Store, plan: Plan, command: Unstack) -> None:
        plan.unstack(command)

    monkeypatch.setattr(Store, "unstack", unstack)


def closing_waits_for_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine closes its store while commits are on their way to it."""

    async def drain(self: Store) -> None:
        pass

    monkeypatch.setattr(Store, "drain", drain)


# Watches


def watches_pass_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch goes on behind what compaction has taken, and nobody hears of it."""
    read = Watch._read_page

    async def read_page(self: Watch) -> None:
        self._query = replace(self._query, gaps_below=None)
        await read(self)

    monkeypatch.setattr(Watch, "_read_page", read_page)


def first_alternative_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch for one of several labels sleeps through those after the first."""
    routes = feed._routes_of
    monkeypatch.setattr(feed, "_routes_of", lambda query: routes(query)[:1])


# Delays


def delays_fire_without_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delayer that sees a delay executes it."""

    async def fire_one(self: Delayer, delay: DelayedState) -> str:
        await self._engine.do(Execute(self._engine.draft_delay(delay)))
        return "settled"

    monkeypatch.setattr(Delayer, "_fire_one", fire_one)


def held_delays_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay whose flow is over fires again after its lease."""

    async def drop(self: HeldDelay) -> None:
        pass

    monkeypatch.setattr(HeldDelay, "_drop", drop)


def lost_renewals_lose_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """One renewal whose reply is lost stops the execution of a delay."""

    async def find(self: HeldDelay) -> str:
        return "lost"

    monkeypatch.setattr(HeldDelay, "_find", find)


# Recovery


def attempts_after_their_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that kills its process is executed again for ever, since no attempt of it counts."""
    counting: set[asyncio.Task[None]] = set()

    async def begin(self: Recoverer, state: State, place: Place) -> None:
        ctx = StateContext(state)
        annotations = attempt_annotations(state, self._rng)
        await self._engine.do(Retry(ctx, annotations))  # Here is the bug: it is not committed.
        self._counts.done["added"] += attempt(ctx.current) == 1
        self._counts.done["retried"] += 1
        outcome = await self._engine.start(ctx, place)
        outcome.add_done_callback(partial(self._ended, ctx.current))
        self._admission.add(outcome)
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
    """What always fails is tried again for ever."""

    def decide(_state: State, *, is_known: bool) -> str:
        return "retry" if is_known else "unknown flow"

    monkeypatch.setattr(recoverer, "decide", decide)


def attempts_have_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash everything is executed again at once."""
    monkeypatch.setattr(Admission, "_is_busy", lambda _: False)


def attempts_wait_for_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a queue when its process dies has been counted for nothing."""
    monkeypatch.setattr(Engine, "reserve", lambda _: Place(object()))


def recovery_without_a_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was asleep executes what its successor executes."""
    original = Recoverer.__init__

    def init(self: Recoverer, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._lease.check = Noop  # type: ignore[assignment, method-assign]

    monkeypatch.setattr(Recoverer, "__init__", init)


def lease_outlives_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that cannot reach the store holds the lease beside the next one."""
    monkeypatch.setattr(lease, "STEP_DOWN_AT", 2.0)


def standby_counts_to_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that stood still between a reply and its reading takes the lease too early."""
    is_free = Lease._is_free

    def is_free_now(self: Lease, liveness: Liveness, _asked_at: float, now: float) -> bool:
        return is_free(self, liveness, now, now)

    monkeypatch.setattr(Lease, "_is_free", is_free_now)


def stalled_states_are_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat revives a state that another engine is about to take over."""
    monkeypatch.setattr(keeper, "_until_it_stalls", lambda _liveness: math.inf)


def _bug(plant: Plant, *trials: Trial, store: str = "memory") -> Bug:
    return Bug(plant.__name__, plant.__doc__ or "", "core", trials, plant, store)


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


STANDBY = "tests/test_simulation.py::test_a_standby_that_stood_still_takes_no_lease_by_an_old_reply"
PLACES = "tests/test_recovery.py::test_no_attempt_waits_for_its_turn_in_the_engine"
ADMISSION = "tests/test_recovery.py::test_no_more_run_at_once_than_allowed"
CONFIRMATION = (
    "tests/test_keeper.py::test_one_that_stalls_soon_gets_a_new_revision_before_its_flow_begins"
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
    _bug(lost_renewals_lose_the_lease, _case("renewal_whose_reply_is_lost", limit=3.0)),
    _bug(attempts_after_their_run, _case("recovery_of_a_flow_that_fails_at_first")),
    _bug(attempts_have_no_limit, _case("recovery_of_a_flow_that_always_fails", limit=3.0)),
    _bug(attempts_have_no_bound, Trial("tests", (ADMISSION,))),
    _bug(attempts_wait_for_their_place, Trial("tests", (PLACES,))),
    _bug(recovery_without_a_fence, _case("recovery_by_a_leader_that_was_asleep")),
    _bug(lease_outlives_its_time, _case("lease_is_left_before_another_takes_it")),
    _bug(standby_counts_to_the_reading, Trial("tests", (STANDBY,))),
    _bug(stalled_states_are_confirmed, Trial("tests", (CONFIRMATION,))),
)
