"""What operators do: edit, goto, retry, fork."""

import asyncio
from datetime import timedelta

import pytest

from flowstate import FakeClock, InvalidInputError, StateNotFoundError, Status
from flowstate.engines.workflow import WorkflowCancelled, WorkflowFailed, step, wait, workflow
from flowstate.engines.workflow.operators import note_of
from tests.engines.workflow.orders import (
    Approved,
    Order,
    charge,
    count_up,
    opened,
    order,
    parcel,
    parcels,
    shipped,
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
        with pytest.raises(WorkflowFailed):
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


async def test_retry_goes_on_with_the_children_that_are_not_done() -> None:
    """One is done, one failed at its step, one was cancelled, one was never started."""
    async with opened(clock=still()) as workflows:
        shop.broken.add("ship milk")
        await workflows.start(shipped, "p", Order(["tea", "milk", "rice", "salt"]))
        for number in range(3):
            await stands(workflows, f"p.parcel.0.{number}", "sent")
        await workflows.send("p.parcel.0.0", Approved("x"))
        await workflows.result("p.parcel.0.0")
        await stands(workflows, "p.parcel.0.3", "sent")
        await workflows.send("p.parcel.0.1", Approved("x"))
        with pytest.raises(WorkflowFailed, match=r"child 'p.parcel.0.1'"):
            await workflows.result("p", timeout=60)
        assert await workflows.count(parcel, kind="cancelled") == 2
        shop.broken.clear()
        await workflows.retry("p")
        for id in ("p.parcel.0.2", "p.parcel.0.3"):
            await workflows.engine.wait_for(id, until=lambda each: "outcome" not in each.labels)
            await stands(workflows, id, "sent")
            await workflows.send(id, Approved("x"))

        result = await workflows.result("p", timeout=60)

    assert [each.rpartition(" ")[0] for each in result] == [
        "ship tea",
        "ship milk",
        "ship rice",
        "ship salt",
    ]
    assert shop.names().count("ship tea") == 1
    assert len(set(shop.keys("ship milk"))) == 1


async def test_a_state_that_has_the_id_of_a_child_is_left_alone() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(count_up, "p.parcel.0.0", {}, {"to": 0})
        await workflows.result("p.parcel.0.0")
        await workflows.start(shipped, "p", Order(["tea"]))
        await workflows.engine.wait_for("p", until=lambda s: "parked" in s.labels)

        assert "is there already, and is no child" in (await workflows.explain("p")).why
        assert await workflows.result("p.parcel.0.0") == 0


async def test_a_hard_cancel_of_a_child_is_told_to_its_parent() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(shipped, "p", Order(["tea", "milk"]))
        for number in range(2):
            await stands(workflows, f"p.parcel.0.{number}", "sent")
        await workflows.cancel("p.parcel.0.0", hard=True)
        with pytest.raises(WorkflowCancelled):
            await workflows.result("p.parcel.0.0")
        with pytest.raises(WorkflowFailed, match=r"child 'p.parcel.0.0'"):
            await workflows.result("p", timeout=60)

        assert await workflows.count(parcel, kind="cancelled") == 2


@workflow("timed", timeout=timedelta(hours=1))
async def timed(s: dict[str, int]) -> str:
    await wait("go_on", Approved)
    return await step(charge, [])


async def test_what_goes_on_again_has_its_whole_time_again() -> None:
    clock = still()
    async with opened(timed, clock=clock) as workflows:
        await workflows.start(timed, "t", {})
        waiting = await stands(workflows, "t", "go_on")
        shop.broken.add("charge")
        await workflows.send("t", Approved("x"))
        with pytest.raises(WorkflowFailed):
            await workflows.result("t", timeout=60)
        clock.advance(5_000)
        shop.broken.clear()
        await workflows.retry("t")
        assert await workflows.result("t", timeout=60) == "charge 2"
        await workflows.fork("t", "u", rev=waiting.rev)
        await stands(workflows, "u", "go_on")
        clock.advance(3_000)
        await workflows.engine.idle()
        assert (await workflows.engine.get_state("u")).status is Status.PAUSED
        clock.advance(700)
        with pytest.raises(WorkflowFailed, match="taken longer than it may"):
            await workflows.result("u", timeout=60)
