"""Bugs to plant in the library, so that its simulation has to find them."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.commands import Commit, Noop, Transit
from flowstate.context import StateContext
from flowstate.driver import DelayedState, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError
from flowstate.execution import Execution
from flowstate.feed import Feed
from flowstate.group_commit import GroupCommit
from flowstate.held_delay import HeldDelay
from flowstate.keeper import Keeper
from flowstate.recovery import Lease
from flowstate.runner import Runner
from flowstate.state import State
from flowstate.testing.simulation.store import SimulatedDriver
from flowstate.watch import Watch

__all__ = ["BUGS", "Plant", "tokens_are_ignored"]

Plant = Callable[[pytest.MonkeyPatch], None]


def no_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that was asleep, or whose commit was long on its way, does not hear of another."""

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
    """Whoever sets a clock takes the lease from its holder, or keeps it for too long."""
    original = Lease.__init__

    def init(self: Lease, engine: Engine, *args: Any, **options: Any) -> None:
        original(self, engine, *args, **options)
        self._clock = WallClock(engine.clock)  # type: ignore[assignment]

    monkeypatch.setattr(Lease, "__init__", init)


def lost_executions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody could keep alive runs here and elsewhere."""
    monkeypatch.setattr(Keeper, "_lose", lambda _, execution: execution.let_go())


def foreground_outlives_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine closes, and what it executes in the foreground runs on, kept alive by nobody."""
    close = Keeper.close

    async def closing(self: Keeper) -> None:
        running, self._executions = self._executions, {}
        await close(self)
        self._executions = running

    monkeypatch.setattr(Keeper, "close", closing)


def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long executions are taken for dead."""

    async def beat(self: Keeper, executions: Sequence[Execution], now: float) -> None:
        for execution in executions:
            execution.heard(now)

    monkeypatch.setattr(Keeper, "_beat_some", beat)


def unconfirmed_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has waited for its turn runs, whoever has taken it over meanwhile."""

    async def is_ours(self: Runner, execution: Execution, ctx: StateContext) -> bool:
        execution.follow(ctx, self._clock.monotonic())
        return True

    monkeypatch.setattr(Runner, "_is_ours", is_ours)


def delays_at_any_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay fires although the state has moved on."""

    async def commit_delay(self: Engine, delayed: DelayedState) -> StateContext:
        state = await self.driver.get_state(delayed.state.id)
        assert state is not None
        moved = replace(delayed, state=replace(delayed.state, rev=state.rev))
        return await self._store.commit_delay(moved)

    monkeypatch.setattr(Engine, "commit_delay", commit_delay)


def delays_by_two_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fires again after a lost race is not what was due."""

    async def commit_delay(self: Engine, delayed: DelayedState) -> StateContext:
        try:
            return await self._store.commit_delay(delayed)
        except RevisionMismatchError:
            ctx = StateContext(await self.get_state(delayed.state.id))
            await self.do(Commit(Transit(ctx, delayed.to)))
            return ctx

    monkeypatch.setattr(Engine, "commit_delay", commit_delay)


def claims_are_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay that is held fires elsewhere, while its flow runs on."""

    async def never(self: HeldDelay) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(HeldDelay, "_renew", never)
    monkeypatch.setattr(HeldDelay, "_end", never)


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
    """A commit of which nobody knows counts as one that did not happen."""

    async def resolved(self: SimulatedDriver, batch: Sequence[Writes]) -> Sequence[Verdict]:
        return await self._send(partial(self._store.commit, self.name, batch))

    monkeypatch.setattr(SimulatedDriver, "_resolved", resolved)


def verdicts_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commits of one batch get each other's verdicts."""
    commit = GroupCommit._commit

    async def turned(self: GroupCommit, batch: list[Any]) -> None:
        driver = self._driver

        class Turned:
            async def commit(self, writes: Sequence[Writes]) -> Sequence[Verdict]:
                return list(reversed(await driver.commit(writes)))

        self._driver = Turned()  # type: ignore[assignment]
        try:
            await commit(self, batch)
        finally:
            self._driver = driver

    monkeypatch.setattr(GroupCommit, "_commit", turned)


def cursor_runs_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that connects again skips what it had read and not delivered."""
    next_ = Watch.__anext__

    async def skipping(self: Watch) -> State:
        state = await next_(self)
        self.cursor = self._scanned_to
        return state

    monkeypatch.setattr(Watch, "__anext__", skipping)


def feed_begins_at_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed between the last page and the first look of the feed is lost."""
    original = Feed._read

    async def read(self: Feed) -> None:
        self._start = self.head = await self._driver.head()
        await original(self)

    monkeypatch.setattr(Feed, "_read", read)


def head_apart_from_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page and head come from two looks at the store, and what lies between is skipped."""
    read = Watch._read_page

    async def read_page(self: Watch) -> None:
        await read(self)
        self._scanned_to = max(self._scanned_to, await self._driver.head())
        self._feed.follow_from(self._scanned_to)

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
    feed_begins_at_the_head,
    head_apart_from_the_page,
    reads_are_stale,
)
