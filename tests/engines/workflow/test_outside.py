"""Functions that wait for the results of other instances and for events, and long steps."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, InvalidInputError, RetryPolicy
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import (
    CompileError,
    Event,
    Result,
    Source,
    Timeout,
    WorkflowCancelled,
    WorkflowFailed,
    Workflows,
    any_of,
    current_step,
    step,
    wait,
    workflow,
)
from flowstate.testing import stands_at

HOUR = timedelta(hours=1)


class Order(Struct):
    id: str
    total: int = 0


class Paid(Struct):
    order: str
    cents: int


class Go(Struct):
    pass


async def count() -> int:
    return 7


@workflow("parts")
async def parts(s: Order) -> list[int]:
    await wait("go", Go)
    return [await step(count)]


@workflow("whole")
async def whole(s: Order) -> int:
    numbers = await wait("made", Result(parts, f"parts of {s.id}"))
    await wait("go", Go)
    return sum(numbers)


@workflow("cautious")
async def cautious(s: Order) -> str:
    try:
        match await wait("made", Result(parts, s.id), Go, Timeout(hours=1)):
            case [first, *_]:
                return f"made {first}"
            case Go():
                return "told to go"
            case Timeout():
                return "too late"
    except WorkflowFailed as error:
        return f"failed because of {type(error.__cause__).__name__}"
    except WorkflowCancelled:
        return "cancelled"
    return "never"


@workflow("ledger")
async def ledger(s: Order) -> str:
    """Add up payments, until none comes for an hour."""
    while True:
        paid = await wait("paid", Event(Paid, order=s.id), Timeout(hours=1), lookback=HOUR)
        if isinstance(paid, Timeout):
            return f"{s.total} cents"
        s.total += paid.cents


@workflow("either")
async def either(s: Order) -> int:
    cents = await any_of(wait(Event(Paid, order=s.id)), wait(Result(parts, s.id)))
    return cents.cents if isinstance(cents, Paid) else cents[0]


async def copy(rows: int) -> int:
    here = current_step()
    for n in range(here.progress or 0, rows):
        await here.engine.clock.sleep(1)
        here.heartbeat(n + 1)
        if n == 6 and here.attempt == 1:
            raise ConnectionError
    return here.attempt


@workflow("copying", retry=RetryPolicy(attempts=3, first=1.0))
async def copying(s: Order) -> int:
    return await step(copy, s.total, heartbeat_timeout=timedelta(seconds=30))


class Bell(Source):
    def handle(self, data: Order, message: Go) -> None:
        pass


@workflow("wrong")
async def wrong(s: Order) -> str:
    texts = ""
    try:
        await wait("paid", Event(Paid, buyer=s.id))
    except InvalidInputError as error:
        texts += f"{error}; "
    try:
        await wait("made", Result(str, s.id))  # type: ignore[arg-type]
    except InvalidInputError as error:
        texts += f"{error}; "
    try:
        await wait("mixed", Bell(), Event(Paid))
    except InvalidInputError as error:
        texts += f"{error}"
    return texts


CODES: Any = [parts, whole, cautious, ledger, either, copying, wrong]


@pytest.fixture
async def workflows() -> Any:
    clock = FakeClock()
    async with (
        Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
        Workflows(engine, CODES) as workflows,
    ):
        yield workflows


async def test_the_result_of_another_workflow_has_its_type(workflows: Workflows) -> None:
    await workflows.start(whole, "w", Order("1"))
    await stands_at(workflows, "w", "made")
    assert "the result of parts of 1" in str(await workflows.explain("w"))
    await workflows.start(parts, "parts of 1", Order("1"))
    await workflows.send("parts of 1", Go())
    await stands_at(workflows, "w", "go")
    await workflows.send("w", Go())

    assert await workflows.result("w") == 7


async def test_how_a_result_can_fail_to_come(workflows: Workflows) -> None:
    for id in ("cancelled", "gone", "told", "made"):
        await workflows.start(cautious, f"c {id}", Order(id))
        await stands_at(workflows, f"c {id}", "made")
    for id in ("cancelled", "made"):
        await workflows.start(parts, id, Order(id))
    await workflows.cancel("cancelled")
    await workflows.send("c told", Go())
    await workflows.send("made", Go())

    assert await workflows.result("c cancelled") == "cancelled"
    assert await workflows.result("c told") == "told to go"
    assert await workflows.result("c made") == "made 7"
    assert await workflows.result("c gone") == "too late"


async def test_each_payment_counts_once(workflows: Workflows) -> None:
    clock: Any = workflows.engine.clock
    await workflows.publish(Paid("1", 100), key="a")
    await workflows.publish(Paid("2", 9), key="b")
    await clock.sleep(60)
    await workflows.start(ledger, "l", Order("1"))
    for _ in range(2):
        await workflows.publish(Paid("1", 20), key="c")
    await clock.sleep(60)
    assert (await workflows.query("l")).total == 120
    assert "Paid order='1'" in str(await workflows.explain("l"))
    await workflows.publish(Paid("1", 3))

    assert await workflows.result("l") == "123 cents"


async def test_branches_that_wait(workflows: Workflows) -> None:
    for id in "12":
        await workflows.start(either, f"e{id}", Order(id))
        await stands_at(workflows, f"e{id}", "any_of")
    await workflows.publish(Paid("1", 5))
    await workflows.start(parts, "2", Order("2"))
    await workflows.send("2", Go())

    assert await workflows.result("e1") == 5
    assert await workflows.result("e2") == 7


async def test_the_progress_of_a_step_is_seen_and_kept(workflows: Workflows) -> None:
    await workflows.start(copying, "c", Order("1", 10))
    await workflows.engine.wait_for(
        "c", until=lambda each: b'"progress":5' in bytes(each.values["threads"])
    )
    assert await workflows.progress("c") == {"main": 5}
    assert "progress: 5" in str(await workflows.explain("c"))

    assert await workflows.result("c") == 2
    assert await workflows.progress("c") == {}


async def test_what_a_wait_refuses(workflows: Workflows) -> None:
    await workflows.start(wrong, "w", Order("1"))

    assert (await workflows.result("w")).split("; ") == [
        "fields: Paid has no 'buyer'",
        "result: needs a workflow, and the id of an instance",
        "sources: cannot have Paid in one wait with what is set up: use any_of(wait(...), ...)",
    ]


def test_a_result_needs_a_known_workflow() -> None:
    @workflow("untyped")
    async def untyped(s: Order) -> int:
        made = await wait("made", Result(any_workflow, s.id))
        await wait("go", Go)
        return int(made)

    with pytest.raises(CompileError, match="made"):
        assert untyped.stops


any_workflow: Any = object()
