"""What operators do: edit, goto, retry, fork."""

import asyncio

import pytest

from flowstate import FakeClock, InvalidInputError, StateNotFoundError, Status
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.workflow.operators import note_of
from tests.engines.workflow.orders import (
    Approved,
    Order,
    count_up,
    opened,
    order,
    parcels,
    shop,
    stands,
)


def still() -> FakeClock:
    return FakeClock(autojump=False)


async def test_an_edit_changes_data_and_names_and_says_who_and_why() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(order, "o", Order(["tea"]))
        await stands(workflows, "o", "approval")
        await workflows.edit(
            "o",
            lambda data: data.cart.append("milk"),
            names={"receipt": "by hand"},
            by="ops",
            why="a call",
        )
        state = await stands(workflows, "o", "approval")
        note = note_of(state)
        assert note is not None
        assert (note.did, note.by, note.why) == ("edit", "ops", "a call")
        await workflows.send("o", Approved("anna"))

        assert await workflows.result("o") == "by hand by anna"
        moments = [each async for each in workflows.history("o")]

    assert shop.names() == ["charge", "ship tea", "ship milk"]
    assert [each.note.by for each in moments if each.note] == ["ops"]


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({"recipe": "x"}, "'recipe' is not alive there; these are: receipt"),
        ({"receipt": 1}, "'receipt' is stored, but cannot be read"),
    ],
)
async def test_an_edit_that_does_not_fit_is_refused(names: dict[str, object], error: str) -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(order, "o", Order([]))
        before = await stands(workflows, "o", "approval")
        with pytest.raises(InvalidInputError, match=error):
            await workflows.edit("o", names=names)
        with pytest.raises(InvalidInputError, match="data: is not of its type"):
            await workflows.edit("o", lambda _: {"cart": 1})
        assert await workflows.engine.get_state("o") == before


async def test_what_is_no_live_instance_is_not_edited() -> None:
    async with opened() as workflows:
        await workflows.start(count_up, "c", {}, {"to": 0})
        await workflows.result("c")
        with pytest.raises(InvalidInputError, match="fork an earlier revision"):
            await workflows.edit("c", lambda _: {"a": 1})
        with pytest.raises(StateNotFoundError):
            await workflows.edit("d", lambda _: {"a": 1})


async def test_an_edit_while_a_step_runs_keeps_the_message_that_led_to_it() -> None:
    async with opened(clock=still()) as workflows:
        shop.held["ship tea"] = asyncio.Event()
        await workflows.start(order, "o", Order(["tea"]))
        await stands(workflows, "o", "approval")
        await workflows.send("o", Approved("anna"))
        await shop.begun["ship tea"].wait()
        await workflows.edit("o", lambda data: data.cart.append("milk"))
        shop.held["ship tea"].set()

        assert await workflows.result("o") == "charge 1 by anna"

    assert len(set(shop.keys("ship tea"))) == 1
    assert shop.names()[-1] == "ship milk"


async def test_goto_begins_a_stop_anew_with_another_key() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(order, "o", Order(["tea"]))
        await stands(workflows, "o", "approval")
        await workflows.goto("o", "charge", by="ops")
        await workflows.engine.wait_for(
            "o", until=lambda s: len(shop.did) == 2 and s.status == "paused"
        )
        await workflows.goto("o", "ship", place={"for item": 0}, names={"item": "tea"})

        assert await workflows.result("o") == "charge 2 by "

    assert shop.names() == ["charge", "charge", "ship tea"]
    assert len(set(shop.keys("charge"))) == 2


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        ("pay", "there is no 'pay'; these are: charge, approval, ship"),
        ("ship", "within 'for item'"),
    ],
)
async def test_goto_needs_all_that_the_stop_needs(stop: str, error: str) -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(order, "o", Order(["tea"]))
        await stands(workflows, "o", "approval")
        with pytest.raises(InvalidInputError, match=error):
            await workflows.goto("o", stop)
        with pytest.raises(InvalidInputError, match="no 'side' with code; these are: main"):
            await workflows.goto("o", stop, thread="side")


async def test_goto_leaves_branches_and_cancels_children() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(parcels, "p", Order(["tea", "milk"]))
        await stands(workflows, "p", "parcel")
        await workflows.engine.wait_for("p.parcel.0.1", status=Status.PAUSED)
        await workflows.goto("p", "all_of", names={"sent": ["lost"]})
        for child in ("p.parcel.0.0", "p.parcel.0.1"):
            state = await workflows.engine.wait_for(child, until=lambda s: "outcome" in s.labels)
            assert state.labels["outcome"] == "cancelled"
        await workflows.engine.wait_for("p", until=lambda s: shop.did and s.status == "paused")
        await workflows.goto("p", "all_of")
        await workflows.send("p", Approved("anna"))

        assert await workflows.result("p") == ["lost", "2"]


async def test_retry_of_what_has_failed_uses_the_same_key() -> None:
    async with opened() as workflows:
        shop.broken.add("charge")
        await workflows.start(order, "o", Order([]))
        with pytest.raises(InstanceFailedError):
            await workflows.result("o")
        shop.broken.clear()
        await workflows.retry("o", by="ops")
        await stands(workflows, "o", "approval")
        state = await workflows.engine.get_state("o")
        assert "outcome" not in state.labels
        assert "error" not in state.values
        await workflows.send("o", Approved("anna"))

        assert await workflows.result("o") == "charge 4 by anna"

    assert len(set(shop.keys("charge"))) == 1


async def test_retry_lets_a_pause_end() -> None:
    async with opened(clock=still()) as workflows:
        shop.broken.add("charge")
        await workflows.start(order, "o", Order([]))
        await stands(workflows, "o", "charge")
        shop.broken.clear()
        await workflows.retry("o")
        await stands(workflows, "o", "approval")
        with pytest.raises(InvalidInputError, match="no step that waits"):
            await workflows.retry("o")


async def test_retry_of_what_was_cancelled_is_refused() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(order, "o", Order([]))
        await stands(workflows, "o", "approval")
        await workflows.cancel("o")
        await workflows.engine.wait_for("o", until=lambda s: "outcome" in s.labels)
        with pytest.raises(InvalidInputError, match="was cancelled"):
            await workflows.retry("o")
        await workflows.goto("o", "approval")
        await workflows.send("o", Approved("anna"))
        assert await workflows.result("o") == "charge 1 by anna"


async def test_a_fork_stands_where_the_other_one_stood() -> None:
    clock = still()
    async with opened(clock=clock) as workflows:
        await workflows.start(order, "o", Order(["tea"]))
        waiting = await stands(workflows, "o", "approval")
        await workflows.send("o", Approved("anna"))
        assert await workflows.result("o") == "charge 1 by anna"
        clock.advance(3600)
        with pytest.raises(InvalidInputError, match="fork an earlier revision"):
            await workflows.fork("o", "o2")
        assert await workflows.fork("o", "o2", rev=waiting.rev, by="ops")
        assert not await workflows.fork("o", "o2", rev=waiting.rev)
        state = await stands(workflows, "o2", "approval")
        note = note_of(state)
        assert note is not None
        assert (note.did, note.of, note.after) == ("fork", "o", waiting.rev)
        await workflows.send("o2", Approved("otto"))

        assert await workflows.result("o2") == "charge 1 by otto"
        assert await workflows.result("o") == "charge 1 by anna"

    assert shop.names() == ["charge", "ship tea", "ship tea"]
    assert len(set(shop.keys("ship tea"))) == 2


async def test_a_fork_from_each_revision_ends() -> None:
    async with opened() as workflows:
        await workflows.start(parcels, "p", Order(["tea", "milk"]))
        for child in ("p.parcel.0.0", "p.parcel.0.1"):
            await workflows.send(child, Approved("anna"), early=True)
        await workflows.send("p", Approved("anna"), early=True)
        result = await workflows.result("p")
        ended = 0
        async for moment in workflows.history("p"):
            id = f"q{moment.rev}"
            if moment.status == "ended":
                ended += 1
                continue
            assert await workflows.fork("p", id, rev=moment.rev)
            for child in (f"{id}.parcel.0.0", f"{id}.parcel.0.1"):
                await workflows.send(child, Approved("anna"), early=True)
            await workflows.send(id, Approved("anna"), early=True)
            assert len(await workflows.result(id, timeout=60)) == len(result)

    assert ended == 1


async def test_a_fork_of_a_child_is_no_child() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(parcels, "p", Order(["tea"]))
        state = await stands(workflows, "p.parcel.0.0", "sent")
        assert await workflows.fork("p.parcel.0.0", "own")
        own = await stands(workflows, "own", "sent")

    assert "parent" in state.labels
    assert "parent" not in own.labels
