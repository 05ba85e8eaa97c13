"""Defects that engines of this kind have had, by number; none of them may come back.

Not here: 4, that a foreign transaction which stays open stops the watchers, is tested with
the drivers whose store can be shared with other programs, and 6 to 8 with the recovery.
"""

import asyncio
import time
from collections import Counter
from datetime import timedelta
from functools import partial

from flowstate.clock import FakeClock
from flowstate.commands import Command, Commit, Delay, End, Execute, Noop, StoreData, Transit
from flowstate.context import StateContext
from flowstate.data import Data, checksum_of
from flowstate.delayer import Delayer
from flowstate.driver import StateQuery, States
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError, StoreUnavailableError
from flowstate.log.watch import Watch
from flowstate.testcases.harness import Harness, case, check
from flowstate.testcases.support import (
    DriverWrapper,
    committed,
    contents,
    delays_of,
    know,
    raised,
    snapshot,
)

__all__ = ["CASES"]


async def _overtaken(h: Harness, id: str) -> StateContext:
    """Return a context whose state was moved on through another one."""
    ctx = await committed(h, id)
    await h.engine.do(Commit(Transit(ctx.copy(), "work")))
    return ctx


@case()
async def defect_01_refused_commit_leaves_no_delay_and_no_data(h: Harness) -> None:
    """G1: delay and data of a refused commit are not stored, wherever they stand in it."""
    lost = await _overtaken(h, "lost")
    other, fresh = await committed(h, "other"), h.ctx("fresh")
    blob = Data(b"of a refused commit")
    other.data = {"blob": blob}
    before = await contents(h)
    delays = [Delay(ctx, "work", after=timedelta(hours=1)) for ctx in (other, fresh, lost)]
    commands: list[Command[None]] = [StoreData(other, "blob"), *delays, Transit(lost, "work")]
    for commit in (Commit(*commands), Commit(*commands[::-1])):
        error = await raised(RevisionMismatchError, partial(h.engine.do, commit))
        check(error.ids, ("lost",), "ids of the lost race")
        check(await contents(h), before, "log and delays")
        check(await h.driver.get_data(checksum_of(blob)), None, "data")


@case()
async def defect_02_failed_commit_leaves_contexts_alone(h: Harness) -> None:
    """G3: after a refused commit, every context is exactly as before it."""
    lost, other, fresh = await _overtaken(h, "lost"), await committed(h, "other"), h.ctx("fresh")
    await h.engine.do(Transit(other, "work", {"step": "not committed"}))
    other.data = {"blob": Data(b"blob")}
    contexts = [lost, other, fresh]
    before = [snapshot(ctx) for ctx in contexts]
    commit = Commit(
        Transit(fresh, "work"),
        StoreData(other, "blob"),
        End(other),
        Delay(fresh, "work", after=timedelta(hours=1)),
        Transit(lost, "work"),
    )
    await raised(RevisionMismatchError, lambda: h.engine.do(commit))
    check([snapshot(ctx) for ctx in contexts], before, "the contexts")
    await h.engine.do(Commit(End(other), Transit(fresh, "work")))


@case()
async def defect_03_concurrent_commits_hide_nothing_from_watchers(h: Harness) -> None:
    """G4, G6: single and multi-state commits at the same time; no watcher misses a revision."""
    know(h, "work")
    sizes = [number % 7 + 1 for number in range(300)]
    seen: dict[str, list[int]] = {"all": [], "even": []}
    total = sum(sizes)

    async def watch(name: str, until: int) -> None:
        labels = {"parity": "even"} if name == "even" else {}
        async with h.engine.watch(labels=labels) as states:
            while len(seen[name]) < until:
                seen[name].append((await anext(states)).rev)

    evens = sum(sizes[::2])
    watchers = [asyncio.create_task(watch(*task)) for task in (("all", total), ("even", evens))]

    async def work(number: int) -> None:
        labels = {"parity": "odd" if number % 2 else "even"}
        group = [h.ctx(f"{number}-{part}", labels=labels) for part in range(sizes[number])]
        await asyncio.sleep(0)  # reason: lets the watchers in between
        await h.engine.do(Commit(*(Transit(ctx, "work") for ctx in group)))

    await asyncio.gather(*map(work, range(300)))
    await asyncio.gather(*watchers)
    check(seen["all"], list(range(1, total + 1)), "what the watcher of everything saw")
    log = [state.rev for state in await h.log() if state.labels["parity"] == "even"]
    check(seen["even"], log, "what the watcher of a label saw")


@case("fake_clock")
async def defect_05_thousands_of_delays_fire_once_each(h: Harness) -> None:
    """G10: 1,501 due delays and as many superseded ones, two delayers; each fires once."""
    fired: Counter[str] = Counter()
    early: list[str] = []
    done = asyncio.Event()
    due = h.clock.now() + timedelta(days=1)

    async def fire(ctx: StateContext, engine: Engine) -> Command[None]:
        fired[ctx.current.id] += 1
        if not ctx.delayed or h.clock.now() < due:
            early.append(ctx.current.id)
        if len(fired) == 1_501:
            done.set()
        return Commit(End(ctx))

    know(h, "work")
    h.flows.set("fire", fire)
    ids = [f"due-{number}" for number in range(1_501)]
    contexts = [h.ctx(id) for id in [*ids, *(f"superseded-{n}" for n in range(1_501))]]
    for start in range(0, len(contexts), 100):
        delays = [Delay(c, "fire", after=timedelta(days=1)) for c in contexts[start : start + 100]]
        await h.engine.do(Commit(*delays))
    await asyncio.gather(*(h.engine.do(Commit(Transit(c, "work"))) for c in contexts[1_501:]))
    check(len(await delays_of(h)), 1_501, "delays that are left when others are superseded")
    async with h.make_engine() as other, Delayer(h.engine), Delayer(other):
        await done.wait()
    check(fired, Counter(ids), "how often each delay fired")
    check(early, [], "delays that fired before their time")
    check(await delays_of(h), [], "delays that are left")


@case("fake_clock")
async def defect_05_claimed_delays_fire_once_each(h: Harness) -> None:
    """G10: of two delayers, one executes a delay that is not committed before."""
    know(h, "work")
    ids = [f"state-{number}" for number in range(20)]

    async def fire(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        await h.clock.sleep(300)  # Longer than the lease of a claim.
        return Noop()

    h.flows.set("fire", fire)
    for id in ids:
        ctx = await committed(h, id)
        await h.engine.do(Delay(ctx, "fire", after=timedelta(days=1), commit=False))
    async with h.make_engine() as other, Delayer(h.engine), Delayer(other):
        await h.until(lambda visits: len(visits) >= 20)
        await h.clock.sleep(600)
    check(sorted(h.visits), sorted(ids), "what fired")
    check(await delays_of(h), [], "delays that are left")


class _Failing(DriverWrapper):
    """Fails to read pages of states from the so-manieth on."""

    left = 0

    async def get_states(self, query: StateQuery) -> States:
        """Read, or fail."""
        if not self.left:
            raise StoreUnavailableError("the store is away")
        self.left -= 1
        return await super().get_states(query)


async def _consume(states: Watch) -> Exception:
    while True:
        try:
            await anext(states)
        except StoreUnavailableError as error:
            return error


@case()
async def defect_09_failing_read_is_raised_by_the_watch(h: Harness) -> None:
    """G6: a watch whose read fails raises, from the log as well as while it waits."""
    first = await committed(h, "first")
    for reads in range(3):
        driver = _Failing(h.driver)
        driver.left = reads
        async with h.make_engine(driver) as engine, engine.watch(since_rev=0) as states:
            consumer = asyncio.ensure_future(_consume(states))
            while not consumer.done():
                await h.engine.do(Commit(Transit(first, "work")))
                await asyncio.sleep(0)  # reason: lets the watch read
            check(str(consumer.result()), "the store is away", "what the watch raised")


@case()
async def defect_10_removed_label_stays_removed(h: Harness) -> None:
    """G3: a label or annotation that was removed does not come back, by copy, fork or commit."""
    ctx = await committed(h, "state", labels={"a": "1", "b": "1"}, annotations={"x": "1", "y": "1"})
    ctx.set_label("a", None)
    ctx.set_annotation("x", None)
    fork = ctx.copy().fork("fork")
    for twin in (fork, ctx):
        await h.engine.do(Commit(Transit(twin, "work")))
        stored = await h.engine.get_state(twin.current.id)
        check((stored.labels, stored.annotations), ({"b": "1"}, {"y": "1"}), "what is stored")
    latest = await h.engine.get_states(labels={"a": "1"}, latest_only=True)
    check(latest.states, [], "latest states with the label")
    latest = await h.engine.get_states(labels={"b": "1"}, latest_only=True)
    check(latest.states, [fork.committed, ctx.committed], "latest states with the other label")
    check([s.rev async for s in h.engine.states(labels={"a": "1"})], [1], "revisions with it")


@case()
async def defect_11_background_executions_are_bounded_and_awaited(h: Harness) -> None:
    """G12, G13: no more executions run at once than allowed, and a stop waits for them."""
    running: set[str] = set()
    most = 0

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal most
        running.add(ctx.current.id)
        most = max(most, len(running))
        for _ in range(5):
            await asyncio.sleep(0)  # reason: lets the others start, if they may
        running.discard(ctx.current.id)
        h.visit(ctx.current.id)
        return Commit(End(ctx))

    h.flows.set("work", work)
    async with h.make_engine(max_executions=3) as engine:
        for number in range(30):
            await engine.do(Execute(h.ctx(f"state-{number}", "work")))
        await h.until(lambda visits: len(visits) >= 28)
    check(most, 3, "executions at once")
    check((len(h.visits), running), (30, set()), "executions that were finished")
    check(len(await h.log()), 30, "revisions")


@case(real_time=True)
async def defect_12_commits_do_not_slow_down_with_the_log(h: Harness) -> None:
    """G13: a commit takes as long when the log has 10,000 revisions as when it is empty."""
    know(h, "work")

    async def best(name: str) -> float:
        took = []
        for turn in range(5):
            start = time.perf_counter()
            for number in range(20):
                await h.engine.do(Commit(Transit(h.ctx(f"{name}-{turn}-{number}"), "work")))
            took.append(time.perf_counter() - start)
        return min(took)

    early = await best("early")
    fill = [h.ctx(f"fill-{number}", labels={"kind": "fill"}) for number in range(10_000)]
    for start in range(0, 10_000, 100):
        await h.engine.do(Commit(*(Transit(ctx, "work") for ctx in fill[start : start + 100])))
    late = early + 1.0
    for attempt in range(3):  # A busy machine or disk only adds to a time.
        late = min(late, await best(f"late-{attempt}"))
        if late < 5 * early + 0.005:
            break
    assert late < 5 * early + 0.005, f"20 commits took {early} s at first, and {late} s later"


@case()
async def defect_13_history_does_not_change_with_the_objects(h: Harness) -> None:
    """G3: neither what was given to a commit nor what was read from it can change the log."""
    labels, annotations, steps = {"a": "1"}, {"x": "1"}, {"s": "1"}
    know(h, "work")
    ctx = h.ctx("state", labels=labels, annotations=annotations)
    ctx.data = {"blob": Data(b"blob", notes := {"n": "1"})}
    await h.engine.do(Commit(Transit(ctx, "work", steps), StoreData(ctx, "blob")))
    for given in (labels, annotations, steps, notes):
        given["changed"] = "yes"
    ctx.data.clear()
    read = await h.engine.get_state("state")
    maps = [read.labels, read.annotations, read.transition.annotations, read.data]
    for mapping in [*maps, ctx.committed.labels, ctx.committed.annotations]:
        # Their type has no such methods, but the objects may have.
        for method in ("clear", "popitem", "__setitem__"):
            arguments = ("changed", "yes") if method == "__setitem__" else ()
            await raised(TypeError, partial(getattr(mapping, method), *arguments))
    await raised(AttributeError, partial(setattr, read, "rev", 7))
    (stored,) = await h.log()
    check(stored, ctx.committed, "the log")
    check((stored.labels, stored.annotations), ({"a": "1"}, {"x": "1"}), "its mappings")
    check(stored.transition.annotations, {"s": "1"}, "annotations of the transition")
    data = await h.engine.get_data(StateContext(stored), "blob")
    check((data.blob, data.annotations), (b"blob", {"n": "1"}), "the data")


@case("fake_clock")
async def defect_14_time_filters_follow_the_log(h: Harness) -> None:
    """G4: ``since_time`` and ``committed_before`` cut the log in two, whatever the clock did."""
    assert isinstance(h.clock, FakeClock)
    know(h, "work")
    for number in range(12):
        await committed(h, f"state-{number}")
        h.clock.set_now(h.clock.now() + timedelta(minutes=(3, -7, 5)[number % 3]))
    log = await h.log()
    for state in log:
        at = state.committed_at
        since = [s async for s in h.engine.states(since_time=at)]
        before = [s async for s in h.engine.states(committed_before=at)]
        check(before + since, log, f"the two parts of the log at {at}")
        assert state in since, "since_time leaves out what was committed then"


CASES = (
    defect_01_refused_commit_leaves_no_delay_and_no_data,
    defect_02_failed_commit_leaves_contexts_alone,
    defect_03_concurrent_commits_hide_nothing_from_watchers,
    defect_05_thousands_of_delays_fire_once_each,
    defect_05_claimed_delays_fire_once_each,
    defect_09_failing_read_is_raised_by_the_watch,
    defect_10_removed_label_stays_removed,
    defect_11_background_executions_are_bounded_and_awaited,
    defect_12_commits_do_not_slow_down_with_the_log,
    defect_13_history_does_not_change_with_the_objects,
    defect_14_time_filters_follow_the_log,
)
