"""Cancelled at every await: a context tells the truth, and nothing is lost, doubled or stuck."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from datetime import timedelta
from typing import Any

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
from flowstate.driver import Driver, Verdict, Writes
from flowstate.errors import (
    StateNotFoundError,
)
from flowstate.testcases.harness import Harness, case, check
from flowstate.testcases.logs import errors_logged
from flowstate.testcases.support import DriverWrapper

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


class _Held(DriverWrapper):
    """Takes batches, and holds each up until it may go on."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.max_batch_size = 64
        self.sizes: list[int] = []
        self.go_on = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Note, wait, and commit one by one."""
        self.sizes.append(len(batch))
        await self.go_on.wait()
        verdicts: list[Verdict] = []
        for writes in batch:
            verdicts += await super().commit([writes])
        await asyncio.sleep(0)  # reason: callers can be cancelled here
        return verdicts


@case()
async def cancelled_before_they_are_given(h: Harness) -> None:
    """G9, G13: commits that are cancelled while they wait for a batch are not made, nor missed."""
    h.flows.declare("next")
    driver = _Held(h.driver)
    async with h.make_engine(driver) as engine, asyncio.timeout(20):
        contexts = [h.ctx(f"s-{n}") for n in range(2_000)]
        commits = [asyncio.ensure_future(engine.do(Commit(Transit(contexts[0], "next"))))]
        await asyncio.wait(commits, timeout=0)
        commits += [asyncio.ensure_future(engine.do(Commit(End(ctx)))) for ctx in contexts[1:]]
        await asyncio.wait(commits, timeout=0)
        with errors_logged() as errors:
            for commit in commits[1:]:
                commit.cancel()
            await asyncio.wait(commits[1:])
            driver.go_on.set()
            await commits[0]
            await engine.do(Commit(Transit(h.ctx("after"), "next")))
        check([record.getMessage() for record in errors], [], "errors that were logged")
    check({commit.cancelled() for commit in commits[1:]}, {True}, "whether all were cancelled")
    check([state.id for state in await h.log()], ["s-0", "after"], "log")
    check(0 in driver.sizes, False, "batches of nothing")


@case()
async def cancelled_in_any_turn(h: Harness) -> None:
    """G8, G9: a commit ends whenever it is cancelled: before its batch, within, or at its end."""
    h.flows.declare("next")
    driver, loop = _Held(h.driver), asyncio.get_running_loop()
    driver.go_on.set()
    async with h.make_engine(driver) as engine, asyncio.timeout(60):
        with errors_logged() as errors:
            for turns in range(24):
                ctx = h.ctx(f"s-{turns}")
                commits: list[asyncio.Task[None]] = []
                if turns % 2:  # The one or the other is first in each turn.
                    _cancel_after(loop, turns // 2, commits)
                commits.append(asyncio.ensure_future(engine.do(Commit(Transit(ctx, "next")))))
                if not turns % 2:
                    _cancel_after(loop, turns // 2, commits)
                _, left = await asyncio.wait(commits, timeout=5)
                check(left, set(), f"what has not ended, cancelled in turn {turns // 2}")
                check(ctx.committed.rev, await _stored_rev(h, ctx.current.id), "revision")
                await engine.do(Commit(Transit(ctx, "next")))
        check([record.getMessage() for record in errors], [], "errors that were logged")
    check(0 in driver.sizes, False, "batches of nothing")


def _cancel_after(
    loop: asyncio.AbstractEventLoop, turns: int, tasks: list["asyncio.Task[None]"]
) -> None:
    if turns:
        loop.call_soon(_cancel_after, loop, turns - 1, tasks)
    else:
        for task in tasks:
            task.cancel()


CASES = (
    cancelled_commit_tells_the_truth,
    cancelled_commit_is_whole,
    cancelled_delay_and_data_are_not_doubled,
    cancelled_twice_is_found_out,
    cancelled_reads_poison_nothing,
    cancelled_watch_goes_on,
    cancelled_before_they_are_given,
    cancelled_in_any_turn,
)
