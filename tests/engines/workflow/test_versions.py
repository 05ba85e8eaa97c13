"""Several versions of a workflow side by side, and instances that move between them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, InvalidInputError, SystemClock
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import (
    MisfitError,
    Workflows,
    check,
    each,
    effect_key,
    helper,
    step,
    sub,
    wait,
    workflow,
)
from flowstate.engines.workflow.sections import On, Return, Sections, Wait
from tests.engines.stores import STORES, driver_of
from tests.engines.workflow.orders import Approved, opened, stands

Data = dict[str, Any]
keys: list[str] = []


def note(text: str) -> str:
    keys.append(effect_key())
    return text


@helper(name="paying")
async def paying_once(s: Data, cents: int) -> str:
    got = await wait("paid", Approved)
    return f"{cents} from {got.by}"


@helper(name="paying")
async def paying_twice(s: Data, cents: int) -> str:
    first = await wait("half", Approved)
    got = await wait("paid", Approved)
    return f"{cents} from {first.by} and {got.by}"


@workflow("sale", version=1)
async def old_sale(s: Data) -> str:
    await wait("approval", Approved)
    return await sub(paying_once, 5)


@workflow("sale", version=2)
async def sale(s: Data) -> str:
    await step(note, "checked")
    await wait("approval", Approved)
    return await sub(paying_twice, 6)


@sale.update
def hurry(s: Data, by: str) -> str:
    return f"2 {by}"


@old_sale.update  # type: ignore[no-redef]
def hurry(s: Data, by: str) -> str:  # noqa: F811
    return f"1 {by}"


@workflow("sale")
async def first_sale(s: Data) -> str:
    await wait("approval", Approved)
    return "first"


async def send(workflows: Workflows, id: str, *names: str) -> None:
    for name in names:
        await workflows.send(id, Approved(name))


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return driver_of(request.param, request)


@contextlib.asynccontextmanager
async def process(driver: Driver, *codes: Any) -> AsyncIterator[Workflows]:
    """Open what one process has."""
    clock = SystemClock()
    async with (
        Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Workflows(engine, codes) as workflows,
    ):
        yield workflows


async def test_each_instance_goes_on_with_the_version_that_it_began_with(driver: Driver) -> None:
    async with driver:
        async with process(driver, old_sale) as workflows:
            await workflows.start(old_sale, "old", {})
            await send(workflows, "old", "anna")
            await stands(workflows, "old", "paid")
        async with process(driver, old_sale, sale) as workflows:
            await workflows.start(sale, "new", {})
            assert await workflows.update("old", "hurry", "x", timeout=20) == "1 x"
            assert await workflows.update("new", "hurry", "x", timeout=20) == "2 x"
            assert await workflows.versions(sale) == {1: 1, 2: 1}
            await send(workflows, "old", "otto")
            await send(workflows, "new", "anna", "emma", "otto")
            assert await workflows.result("old", timeout=20) == "5 from otto"
            assert await workflows.result("new", timeout=20) == "6 from emma and otto"


async def test_a_newer_version_is_not_run_by_an_older_process(driver: Driver) -> None:
    async with driver, process(driver, sale, old_sale) as newer:
        await newer.start(sale, "s", {})
        await stands(newer, "s", "approval")
        async with process(driver, old_sale) as older:
            # The one that commits the move executes it; the other one looks a moment later.
            await send(older, "s", "anna")
            parked = await newer.engine.wait_for(
                "s", until=lambda each: "parked" in each.labels, timeout=20
            )
            assert parked.get(str, "parked") == "sale: version 2 has stored this, and here is 1"
            await send(newer, "s", "emma", "otto")
            assert await newer.result("s", timeout=60) == "6 from emma and otto"


async def test_an_instance_of_a_version_that_is_gone_goes_on_with_the_newest() -> None:
    async with opened(first_sale) as workflows:
        await workflows.start(first_sale, "s", {})
        await stands(workflows, "s", "approval")
        async with Workflows(workflows.engine, [sale]) as newer:
            await send(newer, "s", "anna", "emma", "otto")
            assert await newer.result("s") == "6 from emma and otto"
            assert (await newer.engine.get_state("s")).labels["version"] == "2"


async def test_instances_are_listed_and_counted_by_version() -> None:
    async with opened(first_sale, old_sale, sale, clock=FakeClock(autojump=False)) as workflows:
        for number, code in enumerate([first_sale, old_sale, old_sale, sale]):
            await workflows.start(code, str(number), {})
        for number in range(4):
            await stands(workflows, str(number), "approval")
        found = {
            version: [state.id async for state in workflows.instances(sale, version=version)]
            for version in (0, 1, 2, 3)
        }
        counts = [await workflows.count(sale, version=version) for version in (0, 1, 2, 3)]
        assert await workflows.versions(sale) == {0: 1, 1: 2, 2: 1}
        assert await workflows.standing(old_sale) == {"approval": 2}
        report = await check(workflows.engine, [old_sale, sale])

    assert found == {0: ["0"], 1: ["1", "2"], 2: ["3"], 3: []}
    assert counts == [1, 2, 1, 0]
    assert str(report) == (
        "all 4 live instances can go on\n"
        "live instances of 'sale': 1 of version 0, 2 of version 1, 1 of version 2"
    )


async def test_the_check_tells_that_an_old_version_can_be_deleted() -> None:
    async with opened(old_sale, sale, clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(sale, "s", {})
        await stands(workflows, "s", "approval")
        report = await check(workflows.engine, [old_sale, sale])

    assert report.versions == {"sale": {1: 0, 2: 1}}
    assert "none of version 1" in str(report)


async def test_a_migration_is_planned_and_moves_what_fits() -> None:
    async with opened(old_sale, sale, clock=FakeClock(autojump=False)) as workflows:
        for id in ("fits", "cannot"):
            await workflows.start(old_sale, id, {})
            await stands(workflows, id, "approval")
        await send(workflows, "cannot", "anna")
        await stands(workflows, "cannot", "paid")

        plan = await workflows.migrate(sale, plan=True)
        assert await workflows.versions(sale) == {1: 2, 2: 0}
        assert await workflows.migrate(sale, by="ops", why="v1 goes") == plan
        assert await workflows.versions(sale) == {1: 1, 2: 1}
        assert (await workflows.migrate(sale, id="fits")).live == 0
        note = [moment.note async for moment in workflows.history("fits")][-2:]
        await send(workflows, "fits", "anna", "emma", "otto")
        assert await workflows.result("fits") == "6 from emma and otto"

    (refused,) = plan.stranded
    assert (plan.live, refused.ids, refused.count) == (2, ("cannot",), 1)
    assert refused.why == (
        "sale: has no stop 'paying_once'; its stops: note, approval, paying_twice"
    )
    assert any(each is not None and (each.did, each.by) == ("migrate", "ops") for each in note)


async def test_a_migration_to_an_older_version_is_refused() -> None:
    async with opened(first_sale, old_sale, clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(old_sale, "s", {})
        await stands(workflows, "s", "approval")
        (refused,) = (await workflows.migrate(first_sale, id="s")).stranded
        assert refused.why == "sale: version 1 has stored this, and here is 0"


@pytest.mark.parametrize(
    ("to", "id", "error"),
    [(sale, "", "not among"), (first_sale, "other", "no instance of 'sale'")],
    ids=["version", "id"],
)
async def test_what_cannot_be_migrated_is_refused(to: Any, id: str, error: str) -> None:
    @workflow("other")
    async def other(s: Data) -> None:
        await wait("it", Approved)

    async with opened(first_sale, old_sale, other) as workflows:
        await workflows.start(other, "other", {})
        with pytest.raises(InvalidInputError, match=error):
            await workflows.migrate(to, id=id)


def test_two_workflows_of_one_name_and_version_are_refused() -> None:
    @workflow("sale", version=2)
    async def twin(s: Data) -> None:
        await wait("it", Approved)

    engine = Engine(MemoryDriver(FakeClock()), FlowRegistry())
    with pytest.raises(InvalidInputError, match="two workflows 'sale' have the version 2"):
        Workflows(engine, [sale, twin])


async def test_children_are_of_the_version_that_their_parent_names() -> None:
    @workflow("sales", version=1)
    async def old_sales(s: Data) -> list[str]:
        return await each(old_sale, [{}], name="child")

    @workflow("sales", version=2)
    async def sales(s: Data) -> list[str]:
        return await each(sale, [{}], name="child")

    async with opened(old_sales, sales, clock=FakeClock(autojump=False)) as workflows:
        for code, id, names, result in [
            (old_sales, "old", ["anna", "otto"], "5 from otto"),
            (sales, "new", ["anna", "emma", "otto"], "6 from emma and otto"),
        ]:
            await workflows.start(code, id, {})
            child = f"{id}.child.0.0"
            await workflows.engine.wait_for(child, until=lambda _: True)
            await send(workflows, child, *names)
            assert await workflows.result(id) == [result]


def bells(version: int, *stops: str) -> Sections:
    def ring(s: Data, message: Approved) -> None:
        s.setdefault("log", []).append(f"{message.by} {version}")

    waits = [Wait(stop, On("Approved", ring)) for stop in stops]
    return Sections("bells", Data, *waits, Return(lambda s: s["log"]), version=version)


async def test_versions_of_sections_are_side_by_side_and_migrate() -> None:
    old, new = bells(1, "a", "b"), bells(2, "a", "c", "b")
    async with opened(old, new, clock=FakeClock(autojump=False)) as workflows:
        for id in ("stays", "moves"):
            await workflows.start(old, id, {})
        await stands(workflows, "moves", "a")
        await workflows.migrate(new, id="moves")
        for id in ("stays", "moves"):
            await send(workflows, id, "anna", "otto", *["emma"] * (id == "moves"))
        assert await workflows.result("stays") == ["anna 1", "otto 1"]
        assert await workflows.result("moves") == ["anna 2", "otto 2", "emma 2"]


async def test_a_step_that_runs_during_a_migration_runs_again_with_its_key() -> None:
    @workflow("w", version=1)
    async def one(s: Data) -> str:
        return await step(held, name="work")

    @workflow("w", version=2)
    async def two(s: Data) -> str:
        return await step(note, "two", name="work")

    async def held() -> str:
        keys.append(effect_key())
        begun.set()
        await asyncio.Event().wait()
        return "one"

    begun = asyncio.Event()
    async with opened(one, two, clock=FakeClock(autojump=False)) as workflows:
        keys.clear()
        await workflows.start(one, "w", {})
        await begun.wait()
        await workflows.migrate(two)
        assert await workflows.result("w") == "two"
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_an_unknown_workflow_is_a_misfit() -> None:
    async with opened(first_sale) as workflows:
        await workflows.start(first_sale, "s", {})
        async with Workflows(workflows.engine, []) as without:
            with pytest.raises(MisfitError, match="there is no code 'sale' here"):
                await without.query("s")
