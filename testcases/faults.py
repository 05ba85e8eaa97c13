"""Closed, reopened, compacted, and the clock put back: what was acknowledged stays."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from flowstate.clock import Clock, FakeClock
from flowstate.commands import (
    Commit,
    Delay,
    End,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import Driver, Verdict, Writes
from flowstate.errors import (
    CompactedError,
    DriverClosedError,
    EngineStoppedError,
)
from flowstate.state import State
from flowstate.testcases.harness import Harness, case, check
from flowstate.testcases.support import DriverWrapper

__all__ = ["CASES"]


@case()
async def closing_loses_no_acknowledged_commit(h: Harness) -> None:
    """G7, G9: what was acknowledged while an engine closed is stored, and nothing else."""
    h.flows.declare("next")
    engine = h.make_engine()
    contexts = [h.ctx(f"state-{number}") for number in range(200)]
    async with engine:
        commits = [
            asyncio.ensure_future(engine.do(Commit(Transit(ctx, "next")))) for ctx in contexts
        ]
        await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
    await _check_acknowledged(h, contexts, commits)


@case("durable")
async def closing_the_store_loses_no_acknowledged_commit(h: Harness) -> None:
    """G7, G9: what was acknowledged while the store closed is there when it is open again."""
    h.flows.declare("next")
    contexts = [h.ctx(f"state-{number}") for number in range(200)]
    commits = [asyncio.ensure_future(h.engine.do(Commit(Transit(ctx, "next")))) for ctx in contexts]
    await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
    await h.reopen()
    await _check_acknowledged(h, contexts, commits)


class _Slow(DriverWrapper):
    """A driver that takes batches, and its time over them."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        super().__init__(driver)
        self.max_batch_size = 16
        self.committing = asyncio.Event()
        self._clock = clock

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.committing.set()
        await self._clock.sleep(0.1)
        return await super().commit(batch)


@case()
async def closing_waits_for_commits_on_their_way(h: Harness) -> None:
    """G7, G9: what was given to the store before an engine closed has its verdict afterwards."""
    h.flows.declare("next")
    slow, ctx = _Slow(h.driver, h.clock), h.ctx("state")
    async with h.make_engine(slow) as engine:
        committing = asyncio.ensure_future(engine.do(Commit(Transit(ctx, "next"))))
        await slow.committing.wait()
    check(ctx.committed.rev, 1, "revision that the context knows")
    await committing


async def _check_acknowledged(
    h: Harness, contexts: list[StateContext], commits: Sequence["asyncio.Future[None]"]
) -> None:
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, EngineStoppedError | DriverClosedError)
    told = {ctx.committed.rev: ctx.committed.id for ctx in contexts if ctx.committed.rev}
    check(len(told), outcomes.count(None), "how many contexts were committed")
    check({state.rev: state.id for state in await h.log()}, told, "the log")
    check(sorted(told), list(range(1, len(told) + 1)), "revisions")


@case("durable")
async def everything_is_there_after_reopening(h: Harness) -> None:
    """G7: log, delays, data and the retention floor survive that the store is closed."""
    h.flows.declare("next")
    ctx = h.ctx("state", labels={"kind": "kept"})
    for number in range(5):
        ctx.data = {"blob": Data(b"blob %d" % number, {"number": str(number)})}
        await h.engine.do(Commit(Transit(ctx, "next"), StoreData(ctx, "blob")))
    other = h.ctx("other", annotations={"note": "delayed"})
    await h.engine.do(Commit(Delay(other, "next", after=timedelta(days=1))))
    await h.engine.compact(6)
    log = await h.log()
    delayed = (await h.engine.get_delayed_states()).delayed
    await h.reopen()
    check(await h.log(), log, "the log")
    check((await h.engine.get_delayed_states()).delayed, delayed, "the delays")
    check(await h.engine.get_state("state"), ctx.committed, "the latest revision")
    page = await h.engine.get_states(labels={"kind": "kept"}, latest_only=True)
    check(page.states, [ctx.committed], "the latest revision by label")
    data = await h.engine.get_data(StateContext(ctx.committed), "blob")
    check((data.blob, data.annotations), (b"blob 4", {"number": "4"}), "the data")
    await _check_floor(h, 6)
    await h.engine.do(Commit(End(ctx), End(other)))
    check((ctx.committed.rev, other.committed.rev), (7, 8), "the next revisions")


@case()
async def compacting_keeps_the_latest_revisions(h: Harness) -> None:
    """G6: compacting removes what is old, and readers who still want that are told the floor."""
    h.flows.declare("next")
    contexts = [h.ctx(f"state-{number}", labels={"kind": "kept"}) for number in range(5)]
    for turn in range(3):
        for number, ctx in enumerate(contexts):
            ctx.data = {"blob": Data(f"{number} in turn {turn}".encode())}
            await h.engine.do(Commit(Transit(ctx, "next"), StoreData(ctx, "blob")))
    await h.engine.do(Commit(*(Transit(ctx, "next") for ctx in contexts[3:])))
    log = await h.log()
    check(await h.engine.compact(17), 12, "how many revisions were removed")
    kept = [contexts[n].committed for n in range(5)]
    check(await h.log(), kept, "the log")
    check([await h.engine.get_state(state.id) for state in kept], kept, "the latest revisions")
    check([await h.engine.get_state(s.id, s.rev) for s in kept], kept, "the same by revision")
    page = await h.engine.get_states(labels={"kind": "kept"}, latest_only=True)
    check(page.states, kept, "the latest revisions by label")
    for number, state in enumerate(kept):
        data = await h.engine.get_data(StateContext(state), "blob")
        check(data.blob, f"{number} in turn 2".encode(), "data of the latest revision")
    old = {state.data["blob"].checksum for state in log[:10]}
    check([await h.driver.get_data(checksum) for checksum in old], [None] * 10, "old data")
    await _check_floor(h, 17)


async def _check_floor(h: Harness, floor: int) -> None:
    for since in (0, floor - 2):
        try:
            await h.engine.get_states(since_rev=since)
        except CompactedError as error:
            check(error.floor, floor, "the floor that a reader is told")
        else:
            raise AssertionError(f"revisions after {since} could be read")
        try:
            async with h.engine.watch(since_rev=since) as states:
                await anext(states)
        except CompactedError as error:
            check(error.floor, floor, "the floor that a watcher is told")
        else:
            raise AssertionError(f"revisions after {since} could be watched")
    page = await h.engine.get_states(since_rev=floor - 1)
    check([state.rev for state in page.states], [floor], "revisions from the floor on")


async def _commit_while_the_clock_goes_back(h: Harness) -> list[State]:
    assert isinstance(h.clock, FakeClock)
    h.flows.declare("next")
    for number in range(4):
        await h.engine.do(Commit(Transit(h.ctx(f"state-{number}"), "next")))
        h.clock.set_now(h.clock.now() - timedelta(hours=1))
        if h.capabilities.durable:
            await h.reopen()
    return await h.log()


@case("fake_clock")
async def time_never_goes_back(h: Harness) -> None:
    """G4, G6: revisions are stamped in rising order, also when the clock is put back."""
    log = await _commit_while_the_clock_goes_back(h)
    times = [state.committed_at for state in log]
    check(times, sorted(times, key=str), "times")
    for place, state in enumerate(log):
        found = [s async for s in h.engine.states(since_time=state.committed_at)]
        check([s for s in log[place:] if s not in found], [], "later revisions left out by time")


CASES = (
    closing_loses_no_acknowledged_commit,
    closing_the_store_loses_no_acknowledged_commit,
    closing_waits_for_commits_on_their_way,
    everything_is_there_after_reopening,
    compacting_keeps_the_latest_revisions,
    time_never_goes_back,
)
