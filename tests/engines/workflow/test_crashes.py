"""Wherever processes die, what operators and schedules do ends as without a crash."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random

import attrs
import pytest

from flowstate import Engine, FlowRegistry, State
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow import each, step, wait, workflow
from flowstate.engines.workflow.schedules import Due, register_schedules, schedule_id
from flowstate.engines.workflow.workflows import Workflows
from flowstate.testing import explore_crashes
from tests.engines.workflow.orders import Approved, Order

pytestmark = pytest.mark.slow
RUNS = pytest.mark.parametrize("runs", [30, pytest.param(400, marks=pytest.mark.nightly)])


@attrs.define
class Service:
    """Acts once for each key; outlives the processes."""

    acts: dict[str, str] = attrs.Factory(dict)
    broken: set[str] = attrs.Factory(set)
    is_mended: bool = False

    async def act(self, what: str) -> str:
        await asyncio.sleep(0)
        if what in self.broken:
            raise ConnectionError
        self.acts.setdefault(effect_key(), what)
        return what


service = Service()


async def act(what: str) -> str:
    return await service.act(what)


@workflow("small")
async def small(s: Order) -> str:
    paid = await step(act, "pay")
    await wait("approval", Approved)
    for item in s.cart:
        await step(act, item, name="ship")
    return f"{paid} {s.by}"


@workflow("small", version=1)
async def newer_small(s: Order) -> str:
    paid = await step(act, "pay")
    await wait("approval", Approved)
    await step(act, "thank", name="thank")
    for item in s.cart:
        await step(act, item, name="ship")
    return f"{paid} {s.by}, thanks"


@workflow("part")
async def part(s: Order) -> str:
    return await step(act, s.by)


@workflow("whole")
async def whole(s: Order) -> list[str]:
    return await each(part, [Order([], item) for item in s.cart], limit=1)


@workflow("daily")
async def daily(s: Order) -> str:
    return await step(act, "work")


def world() -> Service:
    global service  # noqa: PLW0603 - the definitions name it
    service = Service()
    return service


def flows(_: Service) -> FlowRegistry:
    registry = FlowRegistry()
    codes = Codes([small, newer_small, daily, whole], rng=Random(0))
    register(registry, codes)
    register_schedules(registry, codes)
    return registry


def is_waiting(state: State) -> bool:
    return state.status != "active" or "outcome" in state.labels


def set_by(data: Order) -> None:
    data.by, data.cart = "anna", ["tea"]


async def edits(workflows: Workflows) -> None:
    await workflows.start(small, "o", Order([]))
    state = await workflows.engine.wait_for("o", until=is_waiting)
    if state.labels.get("stop") == "approval":
        await workflows.edit("o", set_by)
    await workflows.send("o", Approved("x"), key="k")


async def retries(workflows: Workflows) -> None:
    service.broken = set() if service.acts else {"pay"}
    await workflows.start(small, "o", Order([], "x"))
    await workflows.send("o", Approved("x"), key="k", early=True)
    state = await workflows.engine.wait_for("o", until=lambda s: s.status == "ended")
    service.broken = set()
    if state.labels["outcome"] == "failed":
        await workflows.retry("o")


async def retries_of_children(workflows: Workflows) -> None:
    service.broken = set() if service.is_mended else {"b"}
    await workflows.start(whole, "o", Order(["a", "b"]))
    state = await workflows.engine.wait_for("o", until=lambda s: s.status == "ended")
    service.is_mended, service.broken = True, set()
    if state.labels["outcome"] == "failed":
        await workflows.retry("o")


async def forks(workflows: Workflows) -> None:
    await workflows.start(small, "a", Order(["tea"], "x"))
    await workflows.engine.wait_for("a", until=is_waiting)
    revs = [each.rev async for each in workflows.history("a") if each.status == "paused"]
    await workflows.fork("a", "o", rev=revs[0])
    await workflows.send("o", Approved("x"), key="k", early=True)
    await workflows.send("a", Approved("x"), key="k")
    await workflows.result("a")


async def migrates(workflows: Workflows) -> None:
    await workflows.start(small, "o", Order(["tea"], "x"))
    state = await workflows.engine.wait_for("o", until=is_waiting)
    if state.labels.get("stop") == "approval":
        assert not await workflows.migrate(newer_small)
    await workflows.send("o", Approved("x"), key="k")


@pytest.mark.parametrize("use", [edits, retries, retries_of_children, forks, migrates])
@RUNS
def test_what_operators_do_ends_alike(
    use: Callable[[Workflows], Awaitable[None]], runs: int
) -> None:
    async def run(engine: Engine, _: Service) -> None:
        workflows = Workflows(engine, [small, newer_small, daily, whole], rng=Random(0))
        await use(workflows)
        await workflows.result("o")

    explore_crashes(
        world,
        flows,
        run,
        outside=lambda world: sorted(world.acts.items()),
        ignore=("operator",),
        crashes=2,
        max_runs=runs,
    )


@RUNS
def test_a_schedule_starts_each_occurrence_once(runs: int) -> None:
    async def run(engine: Engine, _: Service) -> None:
        client = Workflows(engine, [daily])
        await client.schedule("s", daily, "0 0 * * *", Order([]), overlap="queue")

    def until(states: Mapping[str, State]) -> bool:
        started = [each for each in states.values() if "slot" in each.labels]
        schedule = states.get(schedule_id("s"))
        return (
            schedule is not None
            and schedule.status == "paused"
            and len(started) == 2
            and all(each.status == "ended" for each in started)
            and schedule.get(Due, "due").last == max(each.id for each in started)
        )

    explore_crashes(
        world,
        flows,
        run,
        outside=lambda world: len(world.acts),
        until=until,
        crashes=2,
        max_runs=runs,
    )
