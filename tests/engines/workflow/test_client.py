"""Starting, asking and counting."""

import pytest

from flowstate import FakeClock, InvalidInputError, State, StateContext, StateNotFoundError
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.workflow import (
    all_of,
    any_of,
    first,
    helper,
    sleep,
    step,
    sub,
    wait,
    workflow,
)
from tests.engines.workflow.orders import (
    Approved,
    Order,
    count_up,
    opened,
    order,
    ship,
    shop,
    stands,
)

CLOCK = {"autojump": False}


async def test_an_instance_starts_once_and_gives_its_result() -> None:
    async with opened() as workflows:
        assert await workflows.start(order, "o", Order(["tea"]))
        assert not await workflows.start(order, "o", Order(["tea"]))
        await workflows.send("o", Approved("anna"), key="click")
        await workflows.send("o", Approved("anna"), key="click")

        assert await workflows.result("o") == "charge 1 by anna"
        assert not await workflows.start(order, "o", Order(["coffee"]))

    assert shop.names() == ["charge", "ship tea"]


async def test_an_id_belongs_to_one_workflow() -> None:
    async with opened() as workflows:
        await workflows.start(order, "o", Order([]))
        with pytest.raises(InvalidInputError, match="'o' is the id of an instance of 'order'"):
            await workflows.start(count_up, "o", {}, {"to": 1})
        await workflows.engine.start(StateContext(State("x")), "workflow.order")
        with pytest.raises(InvalidInputError, match="a state that is no instance"):
            await workflows.start(order, "x", Order([]))


async def test_an_instance_that_fails_or_is_cancelled_has_no_result() -> None:
    async with opened() as workflows:
        shop.broken.add("charge")
        await workflows.start(order, "o", Order(["tea"]))
        with pytest.raises(InstanceFailedError, match="charge is down"):
            await workflows.result("o")
        await workflows.start(count_up, "c", {}, {"to": 1})
        await workflows.cancel("c")
        with pytest.raises(InstanceCancelledError):
            await workflows.result("c")


async def test_a_message_for_which_an_instance_never_waits_is_refused() -> None:
    async with opened(clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(order, "o", Order(["tea"]))
        await workflows.start(count_up, "c", {}, {"to": 1})
        reason = "message: 'order' never waits for 'dict', only for Approved"
        with pytest.raises(InvalidInputError, match=reason):
            await workflows.send("o", {"by": "anna"})
        with pytest.raises(
            InvalidInputError, match="'count_up' never waits for 'str', only for App"
        ):
            await workflows.send("c", "anna")
        with pytest.raises(StateNotFoundError):
            await workflows.send("x", "anna")

        assert await workflows.send("o", {"by": "anna"}, early=True)
        assert await workflows.send("o", {"by": "anna"}, name="Approved")
        assert await workflows.result("o") == "charge 1 by anna"


async def test_a_message_may_come_where_a_definition_does_not_say_for_which_it_waits() -> None:
    kinds = [Approved]

    @workflow("open")
    async def open_order(_: Order) -> str:
        found: Approved = await wait("approval", *kinds)
        return found.by

    async with opened(open_order) as workflows:
        await workflows.start(open_order, "o", Order([]))
        assert await workflows.send("o", Order([]))
        assert await workflows.send("o", Approved("anna"))
        assert await workflows.result("o") == "anna"


async def test_an_update_is_answered_and_a_query_reads() -> None:
    async with opened(clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(order, "o", Order(["tea"], "otto"))
        assert await workflows.update("o", "rename", "anna") == "otto"
        with pytest.raises(ValueError, match="a name is needed"):
            await workflows.update("o", "rename", "")

        assert await workflows.query("o") == Order(["tea"], "anna")
        assert await workflows.query("o", lambda data: data.by) == "anna"


async def test_instances_are_listed_and_counted() -> None:
    async with opened(clock=FakeClock(autojump=False)) as workflows:
        for id in ("a", "b", "c"):
            await workflows.start(order, id, Order([]), labels={"shop": id})
            await stands(workflows, id, "approval")
        await workflows.start(count_up, "n", {}, {"to": 1})
        await stands(workflows, "n", "tick")
        await workflows.send("c", Approved("anna"))
        await workflows.result("c")

        assert await workflows.count() == 4
        assert await workflows.count(order) == 3
        assert await workflows.count(order, kind="live") == 2
        assert await workflows.count(order, kind="done") == 1
        assert await workflows.count(kind="failed") == 0
        assert await workflows.count(order, labels={"shop": "a"}) == 1
        assert await workflows.standing(order) == {"approval": 2}
        assert [each.id async for each in workflows.instances(stop="tick")] == ["n"]
        found = {each.id async for each in workflows.instances(order, kind="live")}
        assert found == {"a", "b"}


@helper
async def down(s: Order, n: int) -> int:
    await step(ship, str(n))
    return n + await sub(down, n - 1) if n else 0


@workflow("recursive")
async def recursive(s: Order) -> int:
    return await sub(down, 3)


async def test_a_helper_may_call_itself() -> None:
    async with opened(recursive) as workflows:
        await workflows.start(recursive, "r", Order([]))
        assert await workflows.result("r") == 6
        assert shop.names() == ["ship 3", "ship 2", "ship 1", "ship 0"]


@workflow("nested")
async def nested(s: Order) -> str:
    both = await all_of(any_of(sleep(9), step(ship, "x")), first(1, step(ship, "y"), sleep(9)))
    inner = await any_of(all_of(step(ship, "z")))
    return f"{both} {inner}"


async def test_joins_within_joins_give_what_they_give_by_themselves() -> None:
    async with opened(nested) as workflows:
        await workflows.start(nested, "n", Order([]))
        assert await workflows.result("n") == "('ship x 1', ('ship y 2',)) ('ship z 3',)"


@workflow("hopeless")
async def hopeless(s: Order) -> str:
    try:
        return await any_of(*[step(ship, item) for item in s.cart])
    except ValueError as error:
        return str(error)


async def test_any_of_nothing_raises_at_its_stop() -> None:
    async with opened(hopeless) as workflows:
        await workflows.start(hopeless, "h", Order([]))
        assert await workflows.result("h") == "any_of(...) has no branch that could give a value"
