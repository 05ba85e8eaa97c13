"""Many tasks, threads and driver objects on one store: nothing is lost, nothing is seen twice."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from statistics import median

from flowstate.commands import Check, Commit, End, Pause, Transit
from flowstate.context import StateContext
from flowstate.driver import Driver
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError
from flowstate.state import State
from flowstate.testcases.harness import Harness, case, check

__all__ = ["CASES"]

Seen = list[tuple[int, str]]


def _counter(id: str) -> StateContext:
    return StateContext(State(id, annotations={"count": "0"}))


async def _increment(engine: Engine, id: str, known: State | None = None) -> State:
    """Add one, however often others are faster; try what is known first."""
    while True:
        ctx = StateContext(known or await engine.get_state(id))
        ctx.set_annotation("count", str(int(ctx.current.annotations["count"]) + 1))
        await asyncio.sleep(0)  # reason: lets the others in between, also where reads never wait
        try:
            await engine.do(Commit(Transit(ctx, "count")))
        except RevisionMismatchError as lost:
            check(lost.ids, (id,), "ids of the lost race")
            known = None
        else:
            return ctx.committed


async def _count(engine: Engine, id: str) -> int:
    return int((await engine.get_state(id)).annotations["count"])


async def _watched(engine: Engine, upto: int) -> Seen:
    """Return what a watcher of the whole log sees, up to a revision."""
    seen: Seen = []
    async with engine.watch(since_rev=0) as states:
        async for state in states:
            seen.append((state.rev, state.id))
            if state.rev >= upto:
                break
    return seen


async def _lost(engine: Engine, commit: Commit) -> tuple[str, ...]:
    """Return the ids for which a commit was refused; none when it went through."""
    try:
        await engine.do(commit)
    except RevisionMismatchError as lost:
        return lost.ids
    return ()


async def _check_dense(h: Harness, length: int) -> None:
    log = await h.log()
    check([state.rev for state in log], list(range(1, length + 1)), "revisions")


@case()
async def increments_are_never_lost(h: Harness) -> None:
    """G2: of 100 tasks that increment one state, every one counts."""
    h.flows.declare("count")
    await h.engine.do(Commit(Transit(_counter("counter"), "count")))
    await asyncio.gather(*(_increment(h.engine, "counter") for _ in range(100)))
    check(await _count(h.engine, "counter"), 100, "count")
    await _check_dense(h, 101)


@case()
async def many_increments_of_shared_counters(h: Harness) -> None:
    """G2, G4, G6: 1,000 tasks, 20,000 increments of 50 states, five watchers with one list."""
    h.flows.declare("count")
    ids = [f"counter-{number}" for number in range(50)]
    await h.engine.do(Commit(*(Transit(_counter(id), "count") for id in ids)))
    total = 50 + 1_000 * 20
    watchers = [asyncio.create_task(_watched(h.engine, total)) for _ in range(2)]
    # Each counter always has two rivals; all 400 of them at once would only lose more often.
    rivals = {id: asyncio.Semaphore(2) for id in ids}
    known: dict[str, State] = {}

    async def work(task: int) -> None:
        for step in range(20):
            id = ids[(task + 7 * step) % 50]
            async with rivals[id]:
                known[id] = await _increment(h.engine, id, known.get(id))
        if task in (0, 500):
            watchers.append(asyncio.create_task(_watched(h.engine, total)))

    await asyncio.gather(*map(work, range(1_000)))
    check([await _count(h.engine, id) for id in ids], [400] * 50, "counts")
    watchers.append(asyncio.create_task(_watched(h.engine, total)))
    lists = await asyncio.gather(*watchers)
    check([rev for rev, _ in lists[0]], list(range(1, total + 1)), "watched revisions")
    check([seen == lists[0] for seen in lists], [True] * 5, "whether all watchers saw the same")


@case()
async def check_prevents_write_skew(h: Harness) -> None:
    """G2: of two commits that each rely on what the other changes, one is refused."""
    h.flows.declare("on call")
    for number in range(20):
        ids = (f"first-{number}", f"second-{number}")
        pair = [h.ctx(id) for id in ids]
        await h.engine.do(Commit(*(Transit(ctx, "on call") for ctx in pair)))
        first, second = pair
        verdicts = await asyncio.gather(
            _lost(h.engine, Commit(Pause(first), Check(second.copy()))),
            _lost(h.engine, Commit(Pause(second), Check(first.copy()))),
        )
        check(sorted(verdicts), [(), (ids[verdicts.index(())],)], "verdicts")
        on_call = [await h.engine.get_state(id) for id in ids]
        check(sorted(state.status for state in on_call), ["active", "paused"], "statuses")


@case()
async def opposite_orders_do_not_deadlock(h: Harness) -> None:
    """G2: commits over the same states in any order all get a verdict, and one of them wins."""
    h.flows.declare("next")
    ids = [f"state-{number}" for number in range(8)]
    first = {id: h.ctx(id) for id in ids}
    await h.engine.do(Commit(*(Transit(first[id], "next") for id in ids)))
    for turn in range(1, 21):
        states = {id: await h.engine.get_state(id) for id in ids}
        orders = [ids, ids[::-1], ids[4:] + ids[:4], ids[::2] + ids[1::2]]
        rivals = [[Transit(StateContext(states[id]), "next") for id in order] for order in orders]
        verdicts = await asyncio.gather(*(_lost(h.engine, Commit(*rival)) for rival in rivals))
        check(sorted(verdicts), [(), *[tuple(ids)] * 3], "verdicts")
        check(await h.engine.head(), 8 + 8 * turn, "head")


@case()
async def largest_commits_stay_whole(h: Harness) -> None:
    """G1, G4: commits of 128 states at the same time have 128 revisions in a row each."""
    h.flows.declare("next")
    commits = [[h.ctx(f"{name}-{n}") for n in range(128)] for name in "abcdefgh"]
    await asyncio.gather(
        *(h.engine.do(Commit(*(Transit(ctx, "next") for ctx in group))) for group in commits)
    )
    for group in commits:
        start = group[0].committed.rev
        revs = [ctx.committed.rev for ctx in group]
        check(revs, list(range(start, start + 128)), "revisions of a commit")
    twice = [[StateContext(ctx.committed) for ctx in commits[0]] for _ in range(2)]
    verdicts = await asyncio.gather(
        *(_lost(h.engine, Commit(*(End(ctx) for ctx in group))) for group in twice)
    )
    everything = tuple(sorted(ctx.current.id for ctx in commits[0]))
    check(sorted(verdicts), [(), everything], "verdicts")
    await _check_dense(h, 9 * 128)


@case()
async def revisions_are_dense(h: Harness) -> None:
    """G4: 10,000 commits at the same time make a log without a hole, each of them in a row."""
    h.flows.declare("next")
    commits = [
        [h.ctx(f"state-{number}.{part}") for part in range(3 if number % 10 == 0 else 1)]
        for number in range(10_000)
    ]
    await asyncio.gather(
        *(h.engine.do(Commit(*(Transit(ctx, "next") for ctx in group))) for group in commits)
    )
    for group in commits:
        revs = [ctx.committed.rev for ctx in group]
        check(revs, list(range(revs[0], revs[0] + len(group))), "revisions of a commit")
    await _check_dense(h, 12_000)
    log = {state.rev: state.id for state in await h.log()}
    told = {ctx.committed.rev: ctx.committed.id for group in commits for ctx in group}
    check(log == told, True, "whether the log is what the commits were told")


@case()
async def watchers_opened_at_any_time_see_one_list(h: Harness) -> None:
    """G6: watchers opened before, during and after many commits all deliver the same list."""
    h.flows.declare("next")
    total = 300 * 2
    watchers = [asyncio.create_task(_watched(h.engine, total)) for _ in range(3)]

    async def work(worker: int) -> None:
        for number in range(100):
            pair = [h.ctx(f"{worker}-{number}-{part}") for part in "ab"]
            await h.engine.do(Commit(*(Transit(ctx, "next") for ctx in pair)))
            await asyncio.sleep(0)  # reason: lets the others in between
            if number % 33 == 32:
                watchers.append(asyncio.create_task(_watched(h.engine, total)))

    await asyncio.gather(*map(work, range(3)))
    watchers.append(asyncio.create_task(_watched(h.engine, total)))
    log = [(state.rev, state.id) for state in await h.log()]
    check([rev for rev, _ in log], list(range(1, total + 1)), "revisions")
    for seen in await asyncio.gather(*watchers):
        check(seen, log, "what a watcher saw")


@contextlib.asynccontextmanager
async def _other_engine(h: Harness) -> AsyncIterator[Engine]:
    async with h.other_driver() as driver, h.make_engine(driver) as engine:
        yield engine


@case("shared")
async def several_driver_objects_write_one_log(h: Harness) -> None:
    """G2, G4, G6: commits through three driver objects are dense, and each sees all of them."""
    h.flows.declare("count")
    await h.engine.do(Commit(Transit(_counter("counter"), "count")))
    total = 1 + 3 * (50 * 2 + 20)

    async def work(engine: Engine, name: str) -> None:
        for number in range(50):
            pair = [h.ctx(f"{name}-{number}-{part}") for part in "ab"]
            await engine.do(Commit(*(Transit(ctx, "count") for ctx in pair)))
            first, second = (ctx.committed.rev for ctx in pair)
            check(second - first, 1, "distance of the revisions of a commit")
        for _ in range(20):
            await _increment(engine, "counter")

    async with _other_engine(h) as second, _other_engine(h) as third:
        engines = {"first": h.engine, "second": second, "third": third}
        watchers = [asyncio.create_task(_watched(e, total)) for e in engines.values()]
        await asyncio.gather(*(work(engine, name) for name, engine in engines.items()))
        lists = await asyncio.gather(*watchers)
        counts = [await _count(engine, "counter") for engine in engines.values()]
    check(counts, [60] * 3, "counts")
    check([rev for rev, _ in lists[0]], list(range(1, total + 1)), "watched revisions")
    check([seen == lists[0] for seen in lists], [True] * 3, "whether all watchers saw the same")


@case("shared", real_time=True)
async def commits_of_others_are_seen_soon(h: Harness) -> None:
    """G5, G6: a watcher sees what another driver object commits, half the time within 50 ms."""
    h.flows.declare("next")
    loop = asyncio.get_running_loop()
    took: list[float] = []
    async with _other_engine(h) as other, other.watch(since_rev=0) as states:
        for number in range(25):
            arrival = asyncio.ensure_future(anext(states))
            await asyncio.sleep(0.007 * (number % 9))  # reason: meets polling in any phase
            ctx = h.ctx(f"state-{number}")
            await h.engine.do(Commit(Transit(ctx, "next")))
            committed = loop.time()
            stored = await other.get_state(ctx.current.id)
            check(stored, ctx.committed, "what the other reads at once")
            check(await arrival, ctx.committed, "what the other watches")
            took.append(loop.time() - committed)
    assert median(took) < 0.05, f"half of the commits took {median(took)} s to be seen"


@case("any_loop", real_time=True)
async def threads_share_a_driver(h: Harness) -> None:
    """G2, G4: event loops in four threads commit and read through one driver object."""
    h.flows.declare("count")
    await h.engine.do(Commit(Transit(_counter("counter"), "count")))
    total = 1 + 4 * 50

    async def work(driver: Driver, name: str) -> Seen:
        # A thread cannot be cancelled, so its work has to end by itself.
        async with asyncio.timeout(30), Engine(driver, h.flows) as engine:
            watcher = asyncio.create_task(_watched(engine, total))
            for number in range(25):
                ctx = StateContext(State(f"{name}-{number}"))
                await engine.do(Commit(Transit(ctx, "count")))
                check(await engine.get_state(ctx.current.id), ctx.committed, "own commit")
                await _increment(engine, "counter")
            return await watcher

    def run(name: str) -> Seen:
        return asyncio.run(work(h.driver, name))

    threads = [asyncio.ensure_future(asyncio.to_thread(run, name)) for name in "abcd"]
    await asyncio.wait(threads)  # All of them, also when one fails.
    lists = [thread.result() for thread in threads]
    check(await _count(h.engine, "counter"), 100, "count")
    log = [(state.rev, state.id) for state in await h.log()]
    check([rev for rev, _ in log], list(range(1, total + 1)), "revisions")
    check([seen == log for seen in lists], [True] * 4, "whether all watchers saw the log")
    check(max(Counter(id for _, id in log).values()), 101, "revisions of the counter")


CASES = (
    increments_are_never_lost,
    many_increments_of_shared_counters,
    check_prevents_write_skew,
    opposite_orders_do_not_deadlock,
    largest_commits_stay_whole,
    revisions_are_dense,
    watchers_opened_at_any_time_see_one_list,
    several_driver_objects_write_one_log,
    commits_of_others_are_seen_soon,
    threads_share_a_driver,
)
