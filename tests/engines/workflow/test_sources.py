"""Waits of functions set sources up, and tear them down at any end, on each store."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any

import attrs
import msgspec
import pytest

from flowstate import Engine, FakeClock, FlowRegistry, RetryPolicy, SystemClock
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.workflow import (
    StepFailed,
    Timeout,
    Workflow,
    WorkflowCancelled,
    WorkflowFailed,
    Workflows,
    effect_key,
    step,
    wait,
    workflow,
)
from flowstate.engines.workflow.callbacks import Callback, SignedUrls
from flowstate.engines.workflow.sources import Source, Subscription
from flowstate.testing import explore_crashes
from tests.engines.sections.running import SECONDS, opened, stands
from tests.engines.stores import STORES, driver_of

RETRY = RetryPolicy(attempts=3, first=0.01, jitter=False)


class Order(msgspec.Struct):
    by: str = ""


class Approved(msgspec.Struct):
    by: str


class Paid(msgspec.Struct):
    cents: int


@attrs.define(eq=False)
class Desk:
    """Who is asked for an approval; outlives the processes.

    Attributes:
        asked: what is open, by effect key.
        did: what was torn down, and whether a message of its own had come.
        acts: what was done, by effect key.
        fails: how many calls of ``setup`` and ``teardown`` fail before one succeeds.
    """

    asked: dict[str, str] = attrs.Factory(dict)
    did: list[bool] = attrs.Factory(list)
    acts: dict[str, str] = attrs.Factory(dict)
    fails: dict[str, int] = attrs.Factory(dict)

    def fail(self, what: str) -> None:
        if self.fails.get(what, 0):
            self.fails[what] -= 1
            raise ConnectionError(what)


@attrs.define(eq=False)
class Approval(Source):
    desk: Desk
    to: str
    retry: RetryPolicy = RETRY

    async def setup(self, _data: Order, subscription: Subscription) -> str:
        self.desk.asked[effect_key()] = f"{subscription.instance} {self.to}"
        self.desk.fail("setup")
        return effect_key()

    def handle(self, data: Order, approved: Approved) -> str:
        if approved.by == "eve":
            raise PermissionError("not eve")
        data.by = approved.by
        return f"thank you, {approved.by}"

    async def teardown(self, _data: Order, set_up: str | None, handled: bool) -> None:
        self.desk.fail("teardown")
        if set_up is None:
            self.desk.asked.clear()
        else:
            self.desk.asked.pop(set_up, None)
        self.desk.did.append(handled)


def ordered(desk: Desk) -> Workflow[str]:
    """Return a workflow that asks two people, and waits for a message of no source as well."""

    async def act(what: str) -> str:
        desk.acts.setdefault(effect_key(), what)
        return what

    @workflow("order", retry=RETRY)
    async def order(s: Order) -> str:
        charged = await step(act, "charge")
        try:
            match await wait("w", Approval(desk, "boss"), Paid, Timeout(minutes=10)):
                case Approved(by=who):
                    what = f"{charged} for {who}"
                case Paid(cents=cents):
                    what = f"{charged} {cents}"
                case _:
                    what = "expired"
        finally:
            await step(act, "clean", name="clean")
        return what

    return order


desk = Desk()
order = ordered(desk)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=STORES)
async def workflows(request: pytest.FixtureRequest) -> AsyncIterator[Workflows]:
    desk.__init__()  # type: ignore[misc]
    driver = driver_of(request.param, request)
    async with opened(driver, SystemClock(), order) as workflows:  # type: ignore[arg-type]
        yield workflows


async def test_the_message_of_a_source_is_validated_and_answered(workflows: Workflows) -> None:
    await workflows.start(order, "i", Order())
    await stands(workflows, "i", "w")
    with pytest.raises(PermissionError, match="not eve"):
        await workflows.update("i", "Approved", Approved("eve"), timeout=SECONDS)
    with pytest.raises(msgspec.ValidationError):
        await workflows.update("i", "Approved", {"by": 7}, timeout=SECONDS)
    assert list(desk.asked.values()) == ["i boss"]

    answer = await workflows.update("i", "Approved", Approved("anna"), timeout=SECONDS)
    assert answer == "thank you, anna"
    assert await workflows.result("i", timeout=SECONDS) == "charge for anna"
    assert (await workflows.query("i")).by == "anna"
    assert (desk.asked, desk.did) == ({}, [True])


async def test_a_message_of_no_source_tears_down_as_well(workflows: Workflows) -> None:
    desk.fails = {"setup": 2, "teardown": 2}
    await workflows.send("i", Paid(99), key="k", early=True)
    await workflows.start(order, "i", Order())

    assert await workflows.result("i", timeout=SECONDS) == "charge 99"
    assert (desk.asked, desk.did) == ({}, [False])


async def test_a_cancel_tears_down_before_it_is_raised(workflows: Workflows) -> None:
    await workflows.start(order, "i", Order())
    await stands(workflows, "i", "w")
    await workflows.cancel("i")
    with pytest.raises(WorkflowCancelled):
        await workflows.result("i", timeout=SECONDS)

    assert (desk.asked, desk.did) == ({}, [False])
    assert list(desk.acts.values()) == ["charge", "clean"]


async def test_a_source_that_cannot_be_set_up_is_torn_down_and_fails(workflows: Workflows) -> None:
    desk.fails = {"setup": 99}
    await workflows.start(order, "i", Order())
    with pytest.raises(WorkflowFailed) as caught:
        await workflows.result("i", timeout=SECONDS)

    assert isinstance(caught.value.__cause__, StepFailed)
    assert (desk.asked, desk.did) == ({}, [False])


async def test_a_timeout_tears_down(clock: FakeClock) -> None:
    desk.__init__()  # type: ignore[misc]
    async with opened(MemoryDriver(clock), clock, order) as workflows:  # type: ignore[arg-type]
        await workflows.start(order, "i", Order())
        assert await workflows.result("i") == "expired"
    assert (desk.asked, desk.did) == ({}, [False])


async def test_another_stop_of_an_operator_begins_with_its_own_sources(clock: FakeClock) -> None:
    desk.__init__()  # type: ignore[misc]
    async with opened(MemoryDriver(clock), clock, order) as workflows:  # type: ignore[arg-type]
        await workflows.start(order, "i", Order())
        await stands(workflows, "i", "w")
        await workflows.goto("i", "act")
        await workflows.send("i", Approved("anna"))
        assert await workflows.result("i") == "charge for anna"
    assert desk.did == [True]
    assert len(desk.asked) == 1  # Of the wait that the operator has broken off.


async def test_a_signed_url_ends_the_wait_of_a_function(clock: FakeClock) -> None:
    told: list[str] = []
    urls = SignedUrls("", [b"a secret of the shop"], timedelta(days=1), clock=clock)

    def approve(_: Order, approved: Approved) -> str:
        return approved.by.upper()

    def tell(_: Order, url: str) -> None:
        told.append(url)

    @workflow("called")
    async def called(s: Order) -> str:
        approved: Approved = await wait("w", Callback(urls, approve, tell))
        return approved.by

    async with opened(MemoryDriver(clock), clock, called) as workflows:  # type: ignore[arg-type]
        await workflows.start(called, "i", Order())
        await workflows.engine.wait_for("i", until=lambda _: bool(told))
        assert await urls.deliver(workflows, told[0], b'{"by":"anna"}') == "ANNA"
        assert await urls.deliver(workflows, told[0], b'{"by":"anna"}') == "ANNA"
        assert await workflows.result("i") == "anna"


async def approves(workflows: Workflows) -> None:
    await workflows.send("i", Approved("anna"), key="1")


async def answers(workflows: Workflows) -> None:
    await waits(workflows)
    assert await workflows.update("i", "Approved", Approved("anna"), key="1") == "thank you, anna"


async def cancels(workflows: Workflows) -> None:
    await waits(workflows)
    await workflows.cancel("i")


async def waits(workflows: Workflows) -> None:
    """Wait until the instance waits, or has ended already when it is asked again."""
    await workflows.engine.wait_for(
        "i", until=lambda each: each.status == "ended" or b'"wait"' in bytes(each.values["threads"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("use", [approves, answers, cancels])
@pytest.mark.parametrize("runs", [25, pytest.param(400, marks=pytest.mark.nightly)])
def test_it_ends_alike(use: Callable[[Workflows], Awaitable[None]], runs: int) -> None:
    def flows(desk: Desk) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes([ordered(desk)], rng=Random(0)))
        return registry

    async def run(engine: Engine, desk: Desk) -> None:
        code = ordered(desk)
        workflows = Workflows(engine, [code], rng=Random(0))
        await workflows.start(code, "i", Order())
        await use(workflows)
        with contextlib.suppress(WorkflowCancelled):
            await workflows.result("i")

    def outside(desk: Desk) -> Any:
        return sorted(desk.acts.items()), desk.asked

    explored = explore_crashes(
        lambda: Desk(fails={"setup": 1, "teardown": 1}),
        flows,
        run,
        outside=outside,
        ignore=["answers"],
        crashes=2,
        max_runs=runs,
    )
    assert len(explored.points) > 5
