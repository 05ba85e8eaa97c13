"""Workloads of timers, values, policies, starts, counts and pruning measure what they say."""

import subprocess
import sys

import pytest

from benchmarks.setting import Setting
from benchmarks.sizes import Sizes
from benchmarks.stores.engines import WARM_UP_TASKS
from benchmarks.suites import (
    contention,
    counting,
    policies,
    pruning,
    starting,
    startup,
    timers,
    values,
    waiting,
)
from flowstate import Engine, State, Status
from flowstate.driver import DuePage, DueQuery
from tests.benchmarks.support import SHARED, SMALL, STORES, engines_on, only

pytestmark = [pytest.mark.repository, pytest.mark.timeout(240)]

PENDING = 2_000
OTHER_PACKAGES = """
import sys
{}
before = set(sys.modules)
import flowstate
brought = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(brought - sys.stdlib_module_names))
"""


@pytest.fixture
def sizes() -> Sizes:
    return SMALL


async def pending(engine: Engine) -> DuePage:
    return await engine.driver.get_due(DueQuery("delay", everything=True, limit=3 * PENDING))


async def steps_of(engine: Engine, id: str) -> list[State]:
    return [state async for state in engine.history(id)]


@pytest.mark.parametrize("store", STORES)
async def test_timers_that_are_pending_are_those_of_their_states(
    setting: Setting, store: str
) -> None:
    engines = engines_on(setting, store)
    async with engines.on(timers.content(PENDING)) as engine:
        found = (await pending(engine)).due
    assert len({each.id for each in found}) == PENDING
    for each in found:
        assert each.state.timers[each.timer].due == each.due
        assert each.state.timers[each.timer].to == each.to


@pytest.mark.parametrize("store", STORES)
async def test_all_timers_that_are_due_are_fired(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    key = f"{store}: 20 timers due at once, 2,000 timers pending"
    await only(setting, timers.workloads, key).ours()
    async with engines.on(timers.content(PENDING)) as engine:
        assert len((await pending(engine)).due) == PENDING
        ended = [state async for state in engine.states(status=Status.ENDED, latest_only=True)]
    fired = [state for state in ended if state.transition.to == "finish"]
    assert len(fired) == (20 if store == "memory" else 40)  # As many where they are counted.
    assert not any(state.timers for state in fired)


@pytest.mark.parametrize("store", STORES)
async def test_timers_are_set_one_with_each_commit(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    key = f"{store}: commit that sets a timer, 2,000 timers pending"
    workload = only(setting, timers.workloads, key)
    sample = await workload.ours()
    async with engines.on(timers.content(PENDING)) as engine:
        before = await engine.head()
        found = [each for each in (await pending(engine)).due if each.timer == timers.NAME]
        delayed = workload.others[1]
        await delayed.measure()
        delays = [each for each in (await pending(engine)).due if not each.timer]
        assert await engine.head() - before >= len(delays)
    commits = engines.store.operations
    assert len(found) == len(delays) == commits + (0 if store == "memory" else commits // 4)
    assert sample.value > 0


@pytest.mark.parametrize("store", STORES)
async def test_pruning_forgets_exactly_so_many(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    workload = only(setting, pruning.workloads, f"{store}: prune of 200 states")
    await workload.ours()
    content = pruning.content("many", 200)
    rounds = 1 if store == "memory" else 2  # The second one is counted, on another engine.
    warm_up = rounds * (WARM_UP_TASKS + 1)
    async with engines.on(content) as engine:
        ended = await engine.count(status=Status.ENDED)
        assert ended == content.states * pruning.ENDED // 10 - rounds * 200 + warm_up
        with pytest.raises(RuntimeError, match=f"{ended} of {ended + 1}"):
            await pruning.prune(engine, ended + 1)
        assert await engine.count(status=Status.ENDED) == 0
        assert await engine.count(status=Status.PAUSED) == content.states // 10


@pytest.mark.parametrize("store", STORES)
async def test_counts_find_what_the_store_was_filled_with(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    async with engines.on(engines.large) as engine:
        found = await engine.count(labels=counting.GROUP)
        await counting.count_states({"labels": counting.GROUP}, found, engine, 1)
        with pytest.raises(RuntimeError, match="20 states instead of 21"):
            await counting.count_states({"labels": counting.GROUP}, found + 1, engine, 1)
    for what in ("all", "a status", "a label", "a label and status"):
        await only(
            setting, counting.workloads, f"{store}: count of {what} among 2,000 states"
        ).ours()


@pytest.mark.parametrize("store", STORES)
async def test_another_engine_executes_what_is_started(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    async with engines.on(starting.CONTENT) as engine:
        before = await engine.head()
        await starting.start_elsewhere(engines, engine, 3)
        states = [state async for state in engine.states(since_rev=before)]
        assert not engine.flows.can_run(starting.FLOW)
    own = [state.status for state in states if state.transition.to == starting.FLOW]
    assert own == [Status.ACTIVE, Status.ENDED] * 3


@pytest.mark.parametrize("what", policies.OPTIONS)
async def test_chains_go_through_flows_with_a_policy(setting: Setting, what: str) -> None:
    engines = engines_on(setting, "memory")
    async with engines.on(policies.CONTENT) as engine:
        before = await engine.head()
        await policies.execute_chains(engines, what, engine, 4)
        states = [state async for state in engine.states(since_rev=before)]
        policy = engine.flows.runnable(f"{what}: 1").policy
    assert len(states) == 4 * policies.STEPS
    assert sum(state.status is Status.ENDED for state in states) == 4
    assert (policy.retry is not None, policy.timeout is not None) == (
        what != "without a policy",
        what == "with retries and a timeout",
    )


@pytest.mark.parametrize("store", STORES)
async def test_each_step_changes_the_value_of_the_one_before(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    async with engines.on(values.CONTENT) as engine:
        await values.commit_steps(lambda: "order", values.put_next, engine, 5)
        kept = [state.get(values.Order, values.KEY) for state in await steps_of(engine, "order")]
    assert [order.number for order in kept] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("store", SHARED)
async def test_updates_lose_no_change(setting: Setting, store: str) -> None:
    engines = engines_on(setting, store)
    async with engines.on(contention.CONTENT) as engine:
        before = await engine.head()
        await contention.update(engines, engine, 40)
        (state,) = (await engine.get_states(since_rev=before, latest_only=True)).states
    assert state.get(int) == 40


async def test_each_waits_for_a_state_of_its_own(setting: Setting) -> None:
    engines = engines_on(setting, "memory")
    async with engines.on(waiting.CONTENT) as engine:
        before = await engine.count(status=Status.PAUSED)
        await waiting.wait(engines, engine, 250)
        assert await engine.count(status=Status.PAUSED) - before == 250


def test_an_import_is_measured_beyond_what_it_needs() -> None:
    program = OTHER_PACKAGES.format(startup.DEPENDENCIES)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["flowstate"], done.stderr
