"""The suites of the benchmarks measure what they say."""

import asyncio
from types import ModuleType

import pytest

from benchmarks.catalogue import chosen
from benchmarks.definitions import sleeper
from benchmarks.setting import Setting, Suite
from benchmarks.sizes import FULL, Sizes
from benchmarks.stopwatch import Counter, Stopwatch
from benchmarks.stores.engines import Content
from benchmarks.suites import SUITES, commits, contention, delays, growth, recovery, watching
from flowstate import Status
from flowstate.driver import DueQuery
from flowstate.engines.workflow import WorkflowCancelled, Workflows
from tests.benchmarks.support import SMALL, STORES, engines_on, only

pytestmark = [pytest.mark.repository, pytest.mark.timeout(240)]


@pytest.fixture
def sizes() -> Sizes:
    return SMALL


def workloads_of(module: ModuleType) -> Suite:
    suite: Suite = module.workloads
    return suite


# Every side of the others is measured in test_runs.py.
ALONE = [suite for suite in SUITES if suite not in map(workloads_of, (commits, growth, watching))]


@pytest.mark.slow
@pytest.mark.parametrize("suite", ALONE, ids=lambda suite: suite.__module__.rpartition(".")[2])
async def test_every_side_measures(setting: Setting, suite: Suite) -> None:
    found = chosen(setting, [suite])
    assert found
    for workload in found:
        for measure in (workload.ours, *(side.measure for side in workload.others)):
            sample = await measure()
            assert sample.value > 0
            assert sample.worst is None or sample.worst >= sample.value


def test_names_are_stable_and_distinct(setting: Setting) -> None:
    full = Setting(FULL, setting.stack, setting.folder)
    found = {workload.key: workload for workload in chosen(full, SUITES)}
    for store in STORES:
        for what in (
            "commits, 1 task",
            "commits, 8 tasks",
            "commits, 64 tasks",
            "commits, 512 tasks",
            "commit, latency",
            "commit of 10 states",
            "chains of 3 flows, 1 task",
            "commits to one state, 16 tasks",
            "commit to 1 watcher",
            "commit to 1,000 watchers",
            "page by label among 1,000,000 states",
            "10,000 delays due at once, 100,000 more pending",
            "recovery of 10,000 stalled among 1,000,000 states",
            "commit, 1,000,000 revisions",
            "start-up to the first commit",
            "commit with a value",
            "chains of 3 flows with retries",
            "start on another engine",
            "signal to the next step",
            "waiting for 10,000 states",
            "updates of one state, 16 tasks",
            "count of all among 1,000,000 states",
            "commit, 1,000,000 timers pending",
            "10,000 timers due at once, 1,000,000 timers pending",
            "prune of 100,000 states",
            "workflows of 3 steps, 32 tasks",
            "workflows of 3 steps, 100,000 asleep",
            "message to the next step of a workflow",
        ):
            assert f"{store}: {what}" in found
        assert store == "memory" or f"{store}: commits, 4 processes of 16 tasks" in found
    assert {"memory: parent of 10,000 children", "stop without a store"} <= found.keys()


@pytest.mark.parametrize("store", STORES)
async def test_all_delays_that_are_due_are_fired(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    workload = only(setting, delays.workloads, f"{store}: 20 delays due at once, 200 more pending")
    sample = await workload.ours()
    async with engines.on(engines.large) as engine:
        assert list((await engine.driver.get_due(DueQuery("delay"))).due) == []
        everything = DueQuery("delay", everything=True, limit=1_000)
        pending = await engine.driver.get_due(everything)
        ended = [
            state
            async for state in engine.states(status=Status.ENDED, latest_only=True)
            if state.transition.to == "finish"
        ]
    assert len(pending.due) == 200
    assert len(ended) == (20 if store == "memory" else 40)  # As many where they are counted.
    assert (sample.statements is None) == (store == "memory")


@pytest.mark.parametrize("store", STORES)
async def test_all_that_have_stalled_are_recovered(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    name = f"{store}: recovery of 20 stalled among 2,000 states"
    await only(setting, recovery.workloads, name).ours()
    async with engines.on(engines.large) as engine:
        assert list((await engine.driver.get_due(DueQuery("stall"))).due) == []
        ended = [
            state
            async for state in engine.states(status=Status.ENDED, latest_only=True)
            if state.transition.to == "finish"
        ]
    assert len(ended) == (20 if store == "memory" else 40)


@pytest.mark.parametrize("store", STORES)
async def test_only_attempts_that_succeed_are_commits(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    workload = only(setting, contention.workloads, f"{store}: commits to one state, 16 tasks")
    async with engines.on(contention.CONTENT) as engine:
        before = await engine.head()
        await contention.contend(engines, "success", engine, 16)
        assert await engine.head() - before == 1 + 16
    (attempts,) = workload.others
    success, attempt = await workload.ours(), await attempts.measure()
    assert success.cpu is not None
    assert attempt.cpu is not None
    # Of 16 tasks that begin at once one succeeds, so about 8 attempts are in vain for each.
    assert store == "memory" or success.cpu > 2 * attempt.cpu


async def test_the_last_watcher_is_waited_for(setting: Setting) -> None:
    engines = engines_on(setting, "memory")
    async with engines.on(watching.CONTENT) as engine:
        began = asyncio.get_running_loop().time()
        sample = await watching.deliver(engine, 5, "x", watchers=50)
        took = asyncio.get_running_loop().time() - began
        seen = [state async for state in engine.states(labels={"watched": "x"})]
    assert len(seen) == 5 + 1
    assert 0 < 5 * sample.value <= 2 * took


async def test_tasks_commit_exactly_as_often_as_they_are_told(setting: Setting) -> None:
    engines = engines_on(setting, "sqlite")
    async with engines.on(commits.CONTENT) as engine:
        before = await engine.head()
        await commits.commit_together(engine, 101, 8, "eight")
        assert await engine.head() - before == 101


@pytest.mark.parametrize("store", STORES)
async def test_instances_that_sleep_are_as_real_ones(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    content = Content("sleep", sleeping=5)
    async with engines.on(content) as engine, Workflows(engine, [sleeper]) as workflows:
        assert await workflows.count(sleeper, stop="sleep") == 5
        timers = await engine.driver.get_due(DueQuery("delay", everything=True))
        assert len(timers.due) == 5
        await workflows.cancel("asleep-3")
        with pytest.raises(WorkflowCancelled):
            await workflows.result("asleep-3", timeout=30)
        assert await workflows.count(sleeper, kind="live") == 4


async def test_growth_leaves_nothing_that_stalls(setting: Setting) -> None:
    engines = engines_on(setting, "memory")
    for workload in chosen(setting, [growth.workloads], "memory"):
        await workload.ours()
    async with engines.on(engines.large) as engine:
        found = await engine.driver.get_due(DueQuery("stall"))
    assert found.next_at is not None
    assert (found.next_at - found.now).days > 300


async def test_a_stopwatch_counts_what_is_sent_while_it_runs() -> None:
    counter = Counter()
    with counter.counting():
        counter()
        watch = Stopwatch()
        for _ in range(6):
            counter()
        assert watch.sample(3).statements == 2
    assert Stopwatch().sample(3).statements is None
