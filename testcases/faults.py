"""Cancelled, closed, reopened, replayed: what was acknowledged stays, and nothing is doubled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from datetime import timedelta
from typing import Any

from flowstate.clock import FakeClock
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import (
    CompactedError,
    DriverClosedError,
    EngineStoppedError,
    StateNotFoundError,
)
from flowstate.state import State
from flowstate.testcases.harness import Harness, case, check

__all__ = ["CASES", "CancelAt", "cancelled_everywhere"]

MAX_SUSPENSIONS = 200


class CancelAt:
    """Awaits a coroutine, and cancels the task that does so when it is suspended the n-th time.

    Attributes:
        suspensions: how often the coroutine was suspended so far.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], n: int, *, later: bool) -> None:
        self._work = work
        self._n = n
        self._later = later
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._work.send
        value: Any = None
        while True:
            try:
                waits_for = resume(value)
            except StopIteration as returned:
                return returned.value
            self.suspensions += 1
            if self.suspensions == self._n:
                self._cancel()
            try:
                value = yield waits_for
                resume = self._work.send
            except BaseException as error:  # noqa: BLE001 - the coroutine decides what to do
                resume, value = self._work.throw, error

    def _cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._later:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            task.cancel()

    async def outcome(self) -> bool:
        """Run in a task of its own until that is done; return whether it was cancelled."""

        async def run() -> None:
            await self

        task = asyncio.create_task(run())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return task.cancelled()


async def cancelled_everywhere(
    work: Callable[[str], Coroutine[Any, Any, Any]], verify: Callable[[str], Awaitable[None]]
) -> None:
    """Do ``work`` again and again, cancelled at each of its suspensions in turn, and verify.

    Both are given a name that is new each time. Each cancellation comes once at the suspension
    itself, and once a turn of the event loop later.
    """
    for later in (False, True):
        for n in range(1, MAX_SUSPENSIONS):
            name = f"{n}{'-later' if later else ''}"
            attempt = CancelAt(work(name), n, later=later)
            await attempt.outcome()
            await verify(name)
            if attempt.suspensions < n:
                break
        else:
            raise AssertionError(f"suspended {MAX_SUSPENSIONS} times and still not done")


async def _stored_rev(h: Harness, id: str) -> int:
    try:
        return (await h.engine.get_state(id)).rev
    except StateNotFoundError:
        return 0


async def _check_truth(h: Harness, *contexts: StateContext) -> int:
    """Check that contexts know what the store has, and go on from there; return the revision."""
    revs = [ctx.committed.rev for ctx in contexts]
    stored = [await _stored_rev(h, ctx.current.id) for ctx in contexts]
    check(revs, stored, "revisions that the contexts claim")
    await h.engine.do(Commit(*(End(ctx) for ctx in contexts)))
    log = await h.log()
    for ctx, rev in zip(contexts, revs, strict=True):
        found = [state.rev for state in log if state.id == ctx.current.id]
        check(found, [*([rev] if rev else []), ctx.committed.rev], "revisions in the log")
    check([state.rev for state in log], list(range(1, len(log) + 1)), "all revisions")
    return revs[0]


@case()
async def cancelled_commit_tells_the_truth(h: Harness) -> None:
    """G8, G9: a commit cancelled at any await either happened, and the context knows, or not."""
    h.flows.declare("next")
    contexts: dict[str, StateContext] = {}

    async def work(name: str) -> None:
        ctx = contexts[name] = h.ctx(name)
        await h.engine.do(Commit(Transit(ctx, "next")))

    async def verify(name: str) -> None:
        await _check_truth(h, contexts[name])

    await cancelled_everywhere(work, verify)


@case()
async def cancelled_commit_is_whole(h: Harness) -> None:
    """G1, G9: states, delay and data of a cancelled commit are all there, or none of them is."""
    h.flows.declare("next")
    pairs: dict[str, tuple[StateContext, StateContext]] = {}

    async def work(name: str) -> None:
        first, second = pairs[name] = h.ctx(f"{name}.1"), h.ctx(f"{name}.2")
        first.data = {"blob": Data(name.encode())}
        await h.engine.do(
            Commit(
                Transit(first, "next"),
                StoreData(first, "blob"),
                Delay(second, "next", after=timedelta(days=1)),
            )
        )

    async def verify(name: str) -> None:
        first, second = pairs[name]
        happened = bool(first.committed.rev)
        check(bool(second.committed.rev), happened, "whether the second was committed")
        page = await h.engine.get_delayed_states(limit=1_000)
        delayed = [delay.state.rev for delay in page.delayed]
        check(delayed, [second.committed.rev] if happened else [], "revisions with a delay")
        check("blob" in first.committed.data, happened, "whether the state refers to data")
        if happened:
            reader = StateContext(await h.engine.get_state(first.current.id))
            check((await h.engine.get_data(reader, "blob")).blob, name.encode(), "blob")
        await _check_truth(h, first, second)  # This also drops the delay.

    await cancelled_everywhere(work, verify)


@case()
async def cancelled_delay_and_data_are_not_doubled(h: Harness) -> None:
    """G8, G9: a delay or data stored by itself and cancelled is there once, or not at all."""
    h.flows.declare("next")
    contexts: dict[str, StateContext] = {}

    async def work(name: str) -> None:
        ctx = contexts[name] = h.ctx(name)
        await h.engine.do(Commit(Transit(ctx, "next")))
        ctx.data = {"blob": Data(name.encode())}
        await h.engine.do(StoreData(ctx, "blob"), Delay(ctx, "next", after=timedelta(days=1)))

    async def verify(name: str) -> None:
        ctx = contexts[name]
        page = await h.engine.get_delayed_states(limit=1_000)
        check([d.state.id for d in page.delayed], [name] * len(page.delayed), "states with delays")
        assert len(page.delayed) <= 1, "the delay was stored twice"
        if "blob" in ctx.current.data:
            check((await h.engine.get_data(ctx, "blob")).blob, name.encode(), "blob")
        await _check_truth(h, ctx)

    await cancelled_everywhere(work, verify)


@case()
async def cancelled_twice_is_found_out(h: Harness) -> None:
    """G8, G9: a second cancellation does not wait; the context knows when the next commit does."""
    h.flows.declare("next")
    for number in range(20):
        ctx = h.ctx(f"state-{number}")
        task = asyncio.create_task(h.engine.do(Commit(Transit(ctx, "next"))))
        for _ in range(number % 5):
            await asyncio.sleep(0)  # reason: cancels after so many turns of the event loop
        task.cancel()
        await asyncio.sleep(0)  # reason: the second comes while the first is being handled
        task.cancel()
        await asyncio.wait([task])
        await h.engine.do(Commit(Transit(h.ctx(f"other-{number}"), "next")))
        await _check_truth(h, ctx)


@case()
async def cancelled_reads_poison_nothing(h: Harness) -> None:
    """G9: after a read was cancelled at any await, the driver works as before."""
    h.flows.declare("next")
    ctx = h.ctx("state")
    ctx.data = {"blob": Data(b"blob")}
    commands: list[Command[Any]] = [Delay(ctx, "next", after=timedelta(days=1))]
    await h.engine.do(Commit(*commands, StoreData(ctx, "blob")))
    reads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: h.engine.do(GetState("state")),
        lambda: h.engine.do(GetStates()),
        lambda: h.engine.do(GetData(StateContext(ctx.committed), "blob")),
        lambda: h.engine.do(GetDelayedStates()),
        h.engine.head,
        lambda: h.engine.compact(1),
    ]
    for read in reads:
        expected = await read()

        async def work(name: str, read: Any = read) -> None:
            await read()

        async def verify(name: str, read: Any = read, expected: Any = expected) -> None:
            check(await read(), expected, "what the next read returns")

        await cancelled_everywhere(work, verify)
    await _check_truth(h, ctx)


@case()
async def cancelled_watch_goes_on(h: Harness) -> None:
    """G6, G9: waiting for the next revision can be cancelled at any await, and loses none."""
    h.flows.declare("next")
    async with h.engine.watch(since_rev=0) as states:
        for number in range(1, 21):
            # It waits when it is cancelled, or has read a page, or the next one is there.
            waiting = CancelAt(states.__anext__(), number % 4 + 1, later=number % 2 == 0)
            outcome = asyncio.create_task(waiting.outcome())
            for _ in range(number % 3):
                await asyncio.sleep(0)  # reason: commits after so many turns of the event loop
            ctx = h.ctx(f"state-{number}")
            await h.engine.do(Commit(Transit(ctx, "next")))
            if await outcome:
                check(await anext(states), ctx.committed, "the revision after the cancellation")
            check(states.cursor, number, "cursor")


@case()
async def closing_loses_no_acknowledged_commit(h: Harness) -> None:
    """G7, G9: what was acknowledged while an engine closed is stored, and nothing beside it."""
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
    await h.engine.compact(3)
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
    try:
        await h.engine.get_states(since_rev=0)
    except CompactedError as error:
        check(error.floor, 3, "the floor")
    else:
        raise AssertionError("revisions below the floor could be read")
    await h.engine.do(Commit(End(ctx), End(other)))
    check((ctx.committed.rev, other.committed.rev), (7, 8), "the next revisions")


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
    cancelled_commit_tells_the_truth,
    cancelled_commit_is_whole,
    cancelled_delay_and_data_are_not_doubled,
    cancelled_twice_is_found_out,
    cancelled_reads_poison_nothing,
    cancelled_watch_goes_on,
    closing_loses_no_acknowledged_commit,
    closing_the_store_loses_no_acknowledged_commit,
    everything_is_there_after_reopening,
    time_never_goes_back,
)
