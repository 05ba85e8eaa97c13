"""A lease has one holder; one that lost it without knowing is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from flowstate import recovery
from flowstate.clock import Clock, FakeClock, longest_sleep
from flowstate.commands import Command, Commit, End, Execute, Transit
from flowstate.context import StateContext
from flowstate.driver import Driver, Heartbeat, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import (
    DriverError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.recovery import Lease, Recoverer
from flowstate.recovery.recoverer import lease_name
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, end, know, raised

__all__ = ["CASES"]

SECONDS = 2.0  # Not to be lost when a machine stands still for half a second.


class _Silent(DriverWrapper):
    """A driver whose heartbeats fail on request, as when the network is down."""

    is_silent = False

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        if self.is_silent:
            raise DriverError("the network is down")
        return await super().beat(heartbeats)


class _Counted(DriverWrapper):
    """A driver that counts the heartbeats that its store has taken."""

    is_beating = False
    beaten = 0

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.is_beating = True
        answers = await super().beat(heartbeats)
        self.is_beating = False
        self.beaten += sum(answers)
        return answers


class _Held(DriverWrapper):
    """A driver that holds commits of one state back, as a process that falls asleep does."""

    def __init__(self, driver: Driver, id: str) -> None:
        super().__init__(driver)
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self._id = id

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if self._id in {put.id for writes in batch for put in writes.puts}:
            self.reached.set()
            await self.go_on.wait()
        return await super().commit(batch)


class _Ahead:
    """A clock that is an hour ahead of another one."""

    def __init__(self, clock: Clock) -> None:
        self.longest_sleep = longest_sleep(clock)
        self.monotonic, self.sleep, self.working = clock.monotonic, clock.sleep, clock.working
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now() + timedelta(hours=1)


@contextlib.asynccontextmanager
async def _lease(
    engine: Engine, name: str = "job", seconds: float = SECONDS
) -> AsyncIterator[Lease]:
    async with Lease(engine, name, seconds=seconds, poll_interval=0.05) as lease:
        yield lease


async def _in_time(h: Harness, event: Coroutine[Any, Any, None]) -> None:
    """Wait for what only time brings; a fake clock jumps for sleepers, and for no others."""
    waiting = asyncio.create_task(event)
    while not waiting.done():
        await h.clock.sleep(0.01)
    await waiting


@contextlib.asynccontextmanager
async def _asleep(h: Harness, driver: Driver) -> AsyncIterator[tuple[Engine, Lease, FakeClock]]:
    """Return an engine with the lease, whose time stands still as in a stopped process."""
    clock = FakeClock(autojump=False)
    async with h.make_engine(driver, clock=clock) as engine:
        lease = Lease(engine, "job", seconds=SECONDS, poll_interval=0.05)
        await lease.__aenter__()
        await lease.wait_held()
        try:
            yield engine, lease, clock
        finally:
            await lease.__aexit__(None, None, None)


@case()
async def lease_has_one_holder(h: Harness) -> None:
    """G11: of many that want it at once, one gets it; the others know who, and come after."""
    terms: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(h.make_engine()) for _ in range(5)]
        leases = [Lease(each, "job", seconds=SECONDS, poll_interval=0.05) for each in engines]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        while leases:
            waiting = [asyncio.create_task(lease.wait_held()) for lease in leases]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await h.clock.sleep(0.3)
            held = [lease for lease in leases if lease.is_held]
            check(len(held), 1, "holders")
            check({lease.holder for lease in leases}, {held[0].holder}, "who is known to hold it")
            terms.append(held[0].term)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            leases.remove(held[0])
            await held[0].__aexit__(None, None, None)
            check((held[0].is_held, held[0].holder), (False, ""), "after it was given back")
    check(terms, sorted(set(terms)), "terms grow")


@case()
async def lease_costs_no_revisions_while_it_is_held(h: Harness) -> None:
    """G13: a holder renews it for as long as it likes, and the log does not grow."""
    counted = _Counted(h.driver)
    async with _asleep(h, counted) as (engine, lease, clock):
        head, term = await engine.head(), lease.term
        while counted.beaten < 10:
            if not counted.is_beating:  # However long the store takes.
                clock.advance(SECONDS / 50)
            await h.clock.sleep(0.001)
            check((lease.is_held, lease.term), (True, term), "still held")
        check(await engine.head(), head, "head")


@case()
async def lease_fences_a_holder_that_was_asleep(h: Harness) -> None:
    """G11: one that was stopped past its lease believes to hold it, and is refused."""
    know(h, "work")
    async with _asleep(h, h.driver) as (sleeper, old, clock), _lease(h.engine) as new:
        await _in_time(h, new.wait_held())
        check(old.is_held, True, "the sleeper believes to hold it")
        check(old.term < new.term, True, "terms grow")
        ctx = h.ctx("a")
        commit = Commit(old.check(), Transit(ctx, "work"))
        lost = await raised(RevisionMismatchError, sleeper.do, commit)
        check(lost.ids, (old.id,), "refused because of the lease")
        check(ctx.committed.rev, 0, "nothing was written")
        await _in_time(h, new.wait_held())
        await h.engine.do(Commit(new.check(), Transit(ctx, "work")))
        clock.advance(SECONDS)
        await _in_time(h, old.wait_lost())
        await raised(LeaseLostError, old.check)


@case()
async def lease_is_left_before_another_takes_it(h: Harness) -> None:
    """G11: a holder that cannot reach the store steps down before another may take over."""
    silent = _Silent(h.driver)
    async with h.make_engine(silent) as away, _lease(away) as holder:
        await holder.wait_held()
        await _left(h, silent, holder)


async def _left(h: Harness, silent: _Silent, holder: Lease) -> None:
    async with _lease(h.engine) as standby:
        silent.is_silent = True
        await _in_time(h, holder.wait_lost())
        check(standby.is_held, False, "taken before it was left")
        await _in_time(h, standby.wait_held())
        check(holder.is_held, False, "two holders")
        silent.is_silent = False
        await h.clock.sleep(SECONDS / 2)
        check((holder.is_held, standby.is_held), (False, True), "it stays with the new holder")


@case()
async def lease_survives_a_short_silence(h: Harness) -> None:
    """G11: a heartbeat that fails is sent again, and no other holder takes over meanwhile."""
    silent = _Silent(h.driver)
    async with h.make_engine(silent) as engine, _lease(engine) as lease:
        await lease.wait_held()
        async with _lease(h.engine) as standby:
            silent.is_silent = True
            await h.clock.sleep(0.35 * SECONDS)
            silent.is_silent = False
            await h.clock.sleep(SECONDS)
            check((lease.is_held, standby.is_held), (True, False), "who holds it")


@case()
async def lease_and_clocks_an_hour_apart(h: Harness) -> None:
    """G11: the time of day of a process has no part in leases and recovery."""
    h.flows.set("work", end)

    @h.flows.flow("slow")
    async def slow(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"attempt {recovery.attempt(ctx.current)}")
        await h.clock.sleep(1.25 * SECONDS)
        return Commit(End(ctx))

    async with (
        h.make_engine(clock=_Ahead(h.clock)) as ahead,
        Recoverer(ahead, lease=SECONDS, poll_interval=0.05) as first,
    ):
        while not first.is_leading:
            await h.clock.sleep(0.01)
        async with Recoverer(h.engine, lease=SECONDS, poll_interval=0.05) as second:
            ctx, fresh = h.ctx("slow"), h.ctx("fresh")
            recovery.set_retry_after(ctx, timedelta(seconds=SECONDS))
            await h.engine.do(Commit(Transit(ctx, "slow")), Execute(ctx))
            await ahead.do(Commit(Transit(fresh, "work")))
            await h.engine.idle()
            check(h.visits, ["attempt 0"], "executions of what is alive")
            check((first.is_leading, second.is_leading), (True, False), "one leader")
            check(first.stats().retried, 0, "recovered before its time")


@case()
async def recovery_by_a_leader_that_was_asleep(h: Harness) -> None:
    """G11: an attempt that it was about to commit is refused, and it steps down."""
    h.flows.set("work", end)
    held, clock = _Held(h.driver, "job"), FakeClock(autojump=False)
    async with h.make_engine(held, clock=clock) as sleeper:
        old = Recoverer(sleeper, lease=SECONDS, poll_interval=0.05, rate=1e9)
        await _leads(old)
        await _commit_short_lived(h, "job")
        while not held.reached.is_set():
            clock.advance(0.01)
            await h.clock.sleep(0.01)
        async with _lease(h.engine, lease_name("default")) as new:
            await _in_time(h, new.wait_held())
            check(old.is_leading, True, "the sleeper believes to lead")
            held.go_on.set()  # It wakes up, and its commit goes on its way.
            while not old.stats().skipped and not old.stats().retried:
                await h.clock.sleep(0.01)
            check((old.stats().retried, old.stats().skipped), (0, {"not leading": 1}), "attempts")
            check(old.is_leading, False, "the sleeper leads")
        await old.__aexit__(None, None, None)
    check([recovery.attempt(s) for s in await h.log() if s.id == "job"], [0], "attempts in the log")


@case()
async def recovery_beside_a_leader_that_is_asleep(h: Harness) -> None:
    """G11: the next leader recovers everything, and once, while the sleeper wakes and sleeps."""
    h.flows.set("work", end)
    clock = FakeClock(autojump=False)
    async with h.make_engine(clock=clock) as sleeper:
        old = Recoverer(sleeper, lease=SECONDS, poll_interval=0.05, rate=1e9)
        await _leads(old)
        async with Recoverer(h.engine, lease=SECONDS, poll_interval=0.05) as new:
            while not new.is_leading:
                await h.clock.sleep(0.01)
            check(old.is_leading, True, "the sleeper believes to lead")
            for number in range(10):
                await _commit_short_lived(h, f"job {number}")
            for number in range(10):
                while (await h.engine.get_state(f"job {number}")).status is not Status.ENDED:
                    clock.advance(0.001)  # It wakes up, and goes on where it was.
                    await h.clock.sleep(0.01)
            check(new.stats().retried, 10, "recovered by the one that leads")
            check(old.stats().retried, 0, "recovered by the sleeper")
        await old.__aexit__(None, None, None)
    # A state that nearly stalls again while it waits for its turn is renewed, which is no attempt.
    attempts = {(state.id, recovery.attempt(state)) for state in await h.log()}
    jobs = {f"job {number}" for number in range(10)}
    found = sorted((id, attempt) for id, attempt in attempts if id in jobs and attempt)
    check(found, sorted((id, 1) for id in jobs), "attempts")


async def _leads(recoverer: Recoverer) -> None:
    """Enter a recoverer, and wait until it leads."""
    await recoverer.__aenter__()
    while not recoverer.is_leading:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)  # reason: real time, in which its clock stands still


async def _commit_short_lived(h: Harness, id: str) -> None:
    ctx = h.ctx(id)
    recovery.set_retry_after(ctx, timedelta(milliseconds=300))
    await h.engine.do(Commit(Transit(ctx, "work")))


@case()
async def lease_refuses_bad_input(h: Harness) -> None:
    """G14: a bad name or time is refused before anything is written."""
    for name in ("", None, "x" * 600, "\0"):
        error = await raised(InvalidInputError, Lease, h.engine, name)
        check(error.field, "name", "field")
    for seconds in (0, -1, "1", None, float("nan")):
        error = await raised(InvalidInputError, Lease, h.engine, "job", seconds=seconds)
        check(error.field, "seconds", "field")
    check(await h.engine.head(), 0, "head")
    lease = Lease(h.engine, "job")
    await raised(LeaseLostError, lease.check)


CASES: tuple[Case, ...] = (
    lease_has_one_holder,
    lease_costs_no_revisions_while_it_is_held,
    lease_fences_a_holder_that_was_asleep,
    lease_is_left_before_another_takes_it,
    lease_survives_a_short_silence,
    lease_and_clocks_an_hour_apart,
    recovery_by_a_leader_that_was_asleep,
    recovery_beside_a_leader_that_is_asleep,
    lease_refuses_bad_input,
)
