"""What users test their workflows with: it shows what is wrong, and says where."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from flowstate import FakeClock
from flowstate.engines.workflow import (
    StepFailed,
    Timeout,
    Workflows,
    any_of,
    effect_key,
    go,
    helper,
    step,
    wait,
    workflow,
)
from flowstate.engines.workflow.sections import Sections, Step
from flowstate.testing import cover_stops, explore_workflow, open_workflows, stands_at


class Order(msgspec.Struct):
    item: str
    cents: int = 995


class Approved(msgspec.Struct):
    by: str


class Bank:
    """Charges once for each key, unless it forgets to look at the key."""

    def __init__(self) -> None:
        self.charges: dict[str, int] = {}
        self.looks = True


bank = Bank()


async def charge(cents: int) -> str:
    await asyncio.sleep(0)
    if cents < 0:
        raise ValueError(cents)
    bank.charges.setdefault(effect_key() if bank.looks else str(len(bank.charges)), cents)
    return "paid"


@helper
async def remind(s: Order) -> None:
    await step(charge, 1, name="remind")


@workflow("tested order")
async def order(s: Order) -> str:
    try:
        paid = await step(charge, s.cents)
    except StepFailed as error:
        return str(error)
    match await wait("approval", Approved, Timeout(days=30)):
        case Approved(by=who):
            return f"{paid}, {who}"
        case Timeout():
            go(remind)
    return "expired"


@workflow("racing")
async def racing(s: Order) -> str:
    return str(await any_of(wait(Approved), step(charge, s.cents)))


sections = Sections("tested sections", Order, Step("one", lambda _: None))
LINE = remind.function.__code__.co_firstlineno
MISSED = {f"remind (test_testing_tools.py:{LINE})": ["remind"], "tested sections": ["one"]}


def honest() -> Bank:
    bank.__init__()  # type: ignore[misc]
    return bank


def forgetful() -> Bank:
    honest().looks = False
    return bank


def charged(world: Bank) -> list[int]:
    return [*world.charges.values()]


async def test_a_wait_of_thirty_days_takes_no_time() -> None:
    honest()
    async with open_workflows(order) as workflows:
        assert isinstance(workflows.engine.clock, FakeClock)
        began = workflows.engine.clock.now()
        await workflows.start(order, "o", Order("tea"))
        await stands_at(workflows, "o", "approval")
        assert await workflows.result("o") == "expired"
        assert workflows.engine.clock.now() - began == timedelta(days=30)


async def test_where_an_instance_stands_instead_is_said_at_once() -> None:
    honest()
    async with open_workflows(order) as workflows:
        await workflows.start(order, "o", Order("tea", -1))
        with pytest.raises(AssertionError, match=r"'o' does not wait at 'approval': o: .*, done"):
            await stands_at(workflows, "o", "approval")
        await workflows.start(order, "p", Order("tea"))
        with pytest.raises(AssertionError, match="'p' does not wait at 'charge'") as caught:
            await stands_at(workflows, "p", "charge", timeout=0.05)
        assert "there is no such" not in str(caught.value)
        with pytest.raises(AssertionError, match="there is no such instance"):
            await stands_at(workflows, "q", "charge", timeout=0.05)


def test_no_crash_charges_twice() -> None:
    explored = explore_workflow(
        order, Order("tea"), [Approved("anna")], make_world=honest, outside=charged
    )
    assert len(explored.points) > 3


def test_a_step_that_forgets_its_key_is_found() -> None:
    with pytest.raises(AssertionError, match=r"outside: \[995\] undisturbed, \[995, 995\]"):
        explore_workflow(
            order, Order("tea"), [Approved("anna")], make_world=forgetful, outside=charged
        )


def test_a_client_of_ones_own_is_called_again_after_a_crash() -> None:
    async def client(workflows: Workflows) -> None:
        state = await workflows.engine.wait_for(
            "it",
            until=lambda each: each.labels.get("stop") == "approval" or "outcome" in each.labels,
        )
        if "outcome" not in state.labels:
            await workflows.cancel("it")

    explored = explore_workflow(order, Order("tea"), client, make_world=honest, outside=charged)
    assert "'it' ended" in explored.points[-1]


def test_a_message_that_nothing_waits_for_is_left_where_it_is() -> None:
    explore_workflow(order, Order("tea", -1), [Approved("anna")], make_world=honest)


async def test_what_is_covered_is_told_for_each_stop() -> None:
    honest()
    with cover_stops(order, sections) as coverage:
        async with open_workflows(order, racing, sections) as workflows:
            await workflows.start(order, "a", Order("tea"))
            await workflows.result("a")
            await workflows.start(order, "b", Order("tea", -1))
            await workflows.result("b")
            await workflows.start(racing, "c", Order("tea"))
            await workflows.result("c")
    name = f"tested order (test_testing_tools.py:{order.function.__code__.co_firstlineno})"
    stops = coverage.stops[name]

    assert (stops["charge"].reached, stops["charge"].passed, stops["charge"].raised) == (2, 1, 1)
    assert (stops["approval"].passed, stops["approval"].timed_out) == (0, 1)
    assert stops["approval"].kind == "wait"
    assert stops["approval"].line > stops["charge"].line
    assert coverage.missed() == MISSED
    assert f"{name}: 3 of 3 stops" in str(coverage)
    assert "one  step  -     -        -       -       -" in str(coverage)


async def test_what_is_not_covered_any_more_is_not_counted() -> None:
    with cover_stops(order) as coverage:
        pass
    async with open_workflows(order) as workflows:
        await workflows.start(order, "a", Order("tea", -1))
        await workflows.result("a")

    assert all(use.reached == 0 for stops in coverage.stops.values() for use in stops.values())


def test_what_workers_have_counted_is_added() -> None:
    with cover_stops(order) as one, cover_stops(order, sections) as other:
        for coverage in (one, other):
            for use in coverage.stops[next(iter(coverage.stops))].values():
                use.reached += 1
    one.merge(msgspec.json.decode(msgspec.json.encode(other), type=type(other)))

    reached = {use.reached for use in one.stops[next(iter(one.stops))].values()}
    assert (reached, one.missed()) == ({2}, MISSED)
