"""A retention forgets what ended long ago, compacts the log, and leaves the rest alone."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from flowstate.commands import Commit, End, Pause, Transit
from flowstate.context import StateContext
from flowstate.errors import InvalidInputError, RevisionMismatchError, StateNotFoundError
from flowstate.recovery import Retention, RetentionStats
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, raised

__all__ = ["CASES"]

NOTHING = timedelta(0)
DAY = timedelta(days=1)
ORDER = {"kind": "order"}


async def _end(h: Harness, *ids: str, **state: Any) -> None:
    for id in ids:
        ctx = await committed(h, id, **state)
        await h.engine.do(Commit(End(ctx)))


@contextlib.asynccontextmanager
async def _retention(h: Harness, keep: timedelta, **options: Any) -> AsyncIterator[Retention]:
    options = {"every": 0.05, "lease": 2.0} | options
    async with Retention(h.engine, keep, **options) as retention:
        yield retention


async def _passes(h: Harness, retention: Retention, count: int = 1) -> None:
    """Wait for so many passes that have begun by now or later."""
    wanted = retention.stats().passes + count + 1
    while retention.stats().passes < wanted:
        await h.clock.sleep(0.01)


@case()
async def retention_forgets_what_ended_long_ago(h: Harness) -> None:
    """G13: only what has ended, and long ago enough; the log becomes as small as that."""
    await _end(h, "old 1", "old 2")
    await committed(h, "active")
    await h.engine.do(Commit(Pause(h.ctx("paused"))))
    await h.clock.sleep(0.1)
    last = (await h.engine.get_state("paused")).committed_at
    await _end(h, "young")
    now = (await h.engine.get_state("young")).committed_at
    assert last is not None
    assert now is not None
    await h.clock.sleep(0.01)
    done = await Retention(h.engine, (now - last) / 2, history=NOTHING).run_once()
    check(done.forgotten, 2, "forgotten")
    for id in ("old 1", "old 2"):
        await raised(StateNotFoundError, h.engine.get_state, id)
    left = [state.id for state in await h.log() if not state.id.startswith("old")]
    check(left, ["active", "paused", "young"], "what is left")
    await committed(h, "old 1")  # Its id may begin again.


@case()
async def retention_keeps_the_history(h: Harness) -> None:
    """G13: revisions stay for as long as is said, whatever becomes of the states."""
    await _end(h, "a", "b")
    head = await h.engine.head()
    await h.clock.sleep(0.01)
    done = await Retention(h.engine, NOTHING, history=DAY).run_once()
    check((done.forgotten, done.compacted), (2, 0), "done")
    check(len(await h.log()), head + 2, "revisions")
    await h.clock.sleep(0.01)
    done = await Retention(h.engine, DAY, history=NOTHING).run_once()
    check(done.forgotten, 0, "forgotten")
    check(len(await h.log()), 1, "what is left is the head")


@case()
async def retention_by_labels(h: Harness) -> None:
    """G13: several rules on one store, each with a leader of its own."""
    await _end(h, "order 1", "order 2", labels=ORDER)
    await _end(h, "other")
    async with (
        _retention(h, NOTHING, labels=ORDER, history=DAY, name="orders") as orders,
        _retention(h, DAY, name="rest") as rest,
    ):
        await _passes(h, orders)
        await _passes(h, rest)
        check((orders.stats().forgotten, rest.stats().forgotten), (2, 0), "forgotten")
    check((await h.engine.get_state("other")).id, "other", "what is kept")


@case("shared")
async def retention_has_one_leader(h: Harness) -> None:
    """G13: of two processes one works; when it is left, the other goes on."""
    async with (
        h.other_driver() as driver,
        h.make_engine(driver) as engine,
        Retention(engine, NOTHING, every=0.05, lease=2.0) as second,
    ):
        async with _retention(h, NOTHING) as first:
            pair = [first, second]
            while not any(each.stats().passes for each in pair):
                await h.clock.sleep(0.01)
            leader = first if first.stats().passes else second
            await _passes(h, leader)
            pair.remove(leader)
            check(pair[0].stats(), RetentionStats(), "the other one")
            if leader is second:
                return  # It stays for longer than the other one.
        await _end(h, "a")
        await _passes(h, second)
        check(second.stats().forgotten, 1, "forgotten by the other one")


@case()
async def retention_next_to_work(h: Harness) -> None:
    """G13: what is moved on, and an id that begins again and again, are left in order."""
    async with _retention(h, NOTHING, history=NOTHING, every=0.001) as retention:
        for turn in range(20):
            ctx = await _begin_again(h)
            check((await h.engine.get_state("again")).rev, ctx.committed.rev, f"turn {turn}")
            await h.engine.do(Commit(End(ctx)))
            if turn % 2:
                await _passes(h, retention)
        check(retention.stats().failures, 0, "failures")


async def _begin_again(h: Harness) -> StateContext:
    """Begin it on what is stored of it, which may be forgotten before the commit arrives."""
    while True:
        ctx = h.ctx("again")
        with contextlib.suppress(StateNotFoundError):
            ctx = StateContext(await h.engine.get_state("again"))
        try:
            await h.engine.do(Commit(Transit(ctx, await _flow(h))))
        except RevisionMismatchError:
            await raised(StateNotFoundError, h.engine.get_state, "again")
        else:
            return ctx


async def _flow(h: Harness) -> str:
    if "work" not in h.flows:
        await _end(h, "first")
    return "work"


@case()
async def retention_refuses_bad_input(h: Harness) -> None:
    """G14: a bad option is refused before anything is written."""
    for field, values in {
        "keep": (-DAY, 5, None),
        "history": (-DAY, 5),
        "labels": (5,),
        "name": ("", None, "x" * 510),
        "every": (0, -1, None),
        "batch": (0, 129, None),
        "lease": (0, "1"),
    }.items():
        for value in values:
            options: dict[str, Any] = {"keep": DAY, field: value}
            error = await raised(InvalidInputError, Retention, h.engine, **options)
            check(error.field, field, f"field for {value!r}")
    check(await h.engine.head(), 0, "head")


CASES: tuple[Case, ...] = (
    retention_forgets_what_ended_long_ago,
    retention_keeps_the_history,
    retention_by_labels,
    retention_has_one_leader,
    retention_next_to_work,
    retention_refuses_bad_input,
)
