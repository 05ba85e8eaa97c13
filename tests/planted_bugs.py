"""Bugs to plant in the library, so that its simulation has to find them."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.commands import Commit, Noop, Transit
from flowstate.committing import Committer
from flowstate.context import StateContext
from flowstate.driver import DelayedState, Driver, Heartbeat, StateQuery, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.memory.standing import Standing
from flowstate.engine import Engine
from flowstate.errors import CommitUnknownError, RevisionMismatchError
from flowstate.executions.execution import Execution
from flowstate.executions.flow_loop import FlowLoop
from flowstate.executions.heartbeats import Heartbeats
from flowstate.ground.limits import MAX_REV
from flowstate.log import log_tail, watch
from flowstate.log.log_tail import LogTail
from flowstate.log.watch import Watch
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.mailboxes.signalling import _Sending
from flowstate.operations.claimed_delay import ClaimedDelay
from flowstate.operations.looking import Looking
from flowstate.operations.updating import Change, update
from flowstate.planning.plan import Plan
from flowstate.recovery import Lease
from flowstate.recovery.policy import attempt_annotations
from flowstate.retrying import FAILURES
from flowstate.runtime import Runtime
from flowstate.state import State, Status
from flowstate.testing.simulation.driver import SimulatedDriver

__all__ = ["BUGS", "Plant", "tokens_are_ignored"]

Plant = Callable[[pytest.MonkeyPatch], None]


def no_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that was asleep, or whose commit was long on its way, does not hear of the next."""

    def check(self: Lease) -> Noop:
        self._held_ctx()
        return Noop()

    monkeypatch.setattr(Lease, "check", check)


class WallClock:
    """Takes the time of day for the time that passes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sleep = clock.sleep

    def monotonic(self) -> float:
        return self._clock.now().timestamp()


def lease_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose clock is set takes the lease from its holder, or keeps it for too long."""
    monkeypatch.setattr(Lease, "_clock", property(lambda self: WallClock(self._engine.clock)))


def lost_executions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be kept alive runs here and elsewhere."""
    monkeypatch.setattr(Execution, "lose", Execution.release)


def foreground_outlives_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine closes, and what it executes in the foreground runs on without heartbeats."""
    close = Heartbeats.close

    async def closing(self: Heartbeats, seconds: float, own: Any = None) -> None:
        held, self._held = self._held, {}
        await close(self, seconds, own)
        self._held = held

    monkeypatch.setattr(Heartbeats, "close", closing)


def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long executions are taken for dead."""

    async def beat(self: Heartbeats, beats: Sequence[Heartbeat]) -> Sequence[bool]:
        return [True] * len(beats)

    monkeypatch.setattr(Heartbeats, "_beat_each", beat)


def unconfirmed_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has waited for its turn runs, also when another process has taken it over."""

    async def is_ours(self: FlowLoop, execution: Execution) -> bool:
        execution.follow(execution.ctx, self._clock.monotonic())
        return True

    monkeypatch.setattr(FlowLoop, "_is_ours", is_ours)


def delays_at_any_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay fires although the state has moved on."""
    commit = Engine.commit_delay

    async def commit_delay(self: Engine, delayed: DelayedState) -> StateContext:
        state = await self.driver.get_state(delayed.state.id)
        assert state is not None
        moved = replace(delayed, state=replace(delayed.state, rev=state.rev))
        return await commit(self, moved)

    monkeypatch.setattr(Engine, "commit_delay", commit_delay)


def delays_by_two_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fires again after a lost race is not what was due."""
    commit = Engine.commit_delay

    async def commit_delay(self: Engine, delayed: DelayedState) -> StateContext:
        try:
            return await commit(self, delayed)
        except RevisionMismatchError:
            ctx = StateContext(await self.get_state(delayed.state.id))
            await self.do(Commit(Transit(ctx, delayed.to)))
            return ctx

    monkeypatch.setattr(Engine, "commit_delay", commit_delay)


def claims_are_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay that is claimed fires elsewhere, while its flow runs on."""

    async def never(self: ClaimedDelay) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(ClaimedDelay, "_renew", never)
    monkeypatch.setattr(ClaimedDelay, "_end", never)


def tokens_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is tried again is another commit."""
    send = SimulatedDriver._send

    def sending(self: SimulatedDriver, call: Callable[[], Any]) -> Any:
        if isinstance(call, partial) and call.func == self._store.commit:
            author, batch = call.args
            fresh = [replace(writes, token=_once_more(self, writes)) for writes in batch]
            call = partial(self._store.commit, author, fresh)
        return send(self, call)

    monkeypatch.setattr(SimulatedDriver, "_send", sending)


def _once_more(driver: SimulatedDriver, writes: Writes) -> str:
    driver._store.counts["sent"] += 1
    return f"{writes.token}+{driver._store.counts['sent']}"


def lost_replies_are_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome is unknown counts as one that did not happen."""

    async def resolved(self: SimulatedDriver, batch: Sequence[Writes]) -> Sequence[Verdict]:
        return await self._send(partial(self._store.commit, self.name, batch))

    monkeypatch.setattr(SimulatedDriver, "_resolved", resolved)


def verdicts_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commits of one batch get each other's verdicts."""
    original = Committer.__init__

    def init(self: Committer, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        assert self._batcher is not None
        commit = self._batcher._call

        async def turned(batch: Sequence[Writes]) -> Sequence[Verdict]:
            return list(reversed(await commit(batch)))

        self._batcher._call = turned

    monkeypatch.setattr(Committer, "__init__", init)


def cursor_runs_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that connects again skips what it had read and not delivered."""
    monkeypatch.setattr(Watch, "cursor", property(lambda self: self._seen))


def tail_begins_at_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed between the last page and the first look of the tail is lost."""
    original = LogTail._read

    async def read(self: LogTail) -> None:
        self.head = await _head_of(self._driver)
        await original(self)

    monkeypatch.setattr(LogTail, "_read", read)


async def _head_of(driver: Driver) -> int:
    return (await driver.get_states(StateQuery(after=MAX_REV, limit=1))).head


def head_apart_from_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page and head come from two looks at the store, and what lies between is skipped."""
    read = Watch._read_page

    async def read_page(self: Watch) -> None:
        await read(self)
        self._seen = max(self._seen, await _head_of(self._driver))

    monkeypatch.setattr(Watch, "_read_page", read_page)


def reads_are_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica answers every tenth read, and is one revision behind."""
    get_state = MemoryDriver.get_state
    reads = itertools.count(1)

    async def lagging(self: MemoryDriver, id: str, rev: int | None = None) -> State | None:
        found = await get_state(self, id, rev)
        if found is not None and rev is None and next(reads) % 10 == 0:
            for before in range(found.rev - 1, 0, -1):
                if older := await get_state(self, id, before):
                    return older
        return found

    monkeypatch.setattr(MemoryDriver, "get_state", lagging)


def damage_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that cannot be read is left out, and no reader hears of it."""
    for module in (log_tail, watch):
        monkeypatch.setattr(module, "revisions", lambda page: page.states)


def deadlines_from_the_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the store's clock was ahead, what a crash leaves is not recovered for as long."""
    monkeypatch.setattr(Standing, "since", lambda _self, state: state.committed_at)


def keys_are_looked_for_in_an_older_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that two processes send with one key at the same time is received twice."""
    keep = _Sending._keep

    async def keeping(self: _Sending, plan: Plan, *, with_message: bool) -> StateContext:
        self.line.state = await self._read(mailbox_id(self.sent.id))
        return await keep(self, plan, with_message=with_message)

    monkeypatch.setattr(_Sending, "_keep", keeping)


def unknown_updates_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update whose reply was lost is done twice, as if it had lost a race."""

    async def updating(runtime: Runtime, id: str, change: Change, attempts: int) -> State:
        while True:
            try:
                return await update(runtime, id, change, attempts)
            except CommitUnknownError:
                continue

    monkeypatch.setattr("flowstate.operations.changing.update", updating)


def crashes_make_failures_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that also crashes fails more often than its policy allows."""

    def without_failures(state: State, rng: Random) -> dict[str, str]:
        return {**attempt_annotations(state, rng), FAILURES: "0"}

    monkeypatch.setattr("flowstate.recovery.recoverer.attempt_annotations", without_failures)


def waits_begin_at_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait misses what is committed between its look at the state and its watch."""

    async def wait_for(
        self: Engine,
        id: str,
        *,
        status: Status | None = None,
        until: Callable[[State], object] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> State:
        reached = until or (lambda state: state.status is status)
        state = await self.driver.get_state(id)
        if state is not None and reached(state):
            return state
        async with (
            asyncio.timeout(timeout),
            self.watch(id=id, since_rev=await self.head()) as states,
        ):
            return await anext(each async for each in states if reached(each))

    monkeypatch.setattr(Looking, "wait_for", wait_for)


BUGS: tuple[Plant, ...] = (
    no_fences,
    lease_by_the_wall_clock,
    lost_executions_go_on,
    foreground_outlives_its_engine,
    no_heartbeats,
    unconfirmed_executions,
    delays_at_any_revision,
    delays_by_two_commits,
    claims_are_not_renewed,
    tokens_are_ignored,
    lost_replies_are_refusals,
    verdicts_in_another_order,
    cursor_runs_ahead,
    tail_begins_at_the_head,
    head_apart_from_the_page,
    reads_are_stale,
    damage_is_passed_over,
    deadlines_from_the_last_commit,
    keys_are_looked_for_in_an_older_mailbox,
    unknown_updates_are_done_again,
    crashes_make_failures_forgotten,
    waits_begin_at_the_head,
)
