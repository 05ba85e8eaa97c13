"""Events: filters, one of several, all of them, each once, and to one instance only."""

import asyncio
from typing import Any

import pytest

from flowstate import InvalidInputError
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.logic import (
    AllArrived,
    AnyArrived,
    Arrived,
    Await,
    AwaitAll,
    AwaitAny,
    Done,
    Entered,
    Event,
    Machine,
    Next,
    Returned,
    Run,
    Stay,
    To,
    Wake,
    emit,
)
from tests.engines.logic.driving import event, machines_of, seconds, shop, stands, work

Values = dict[str, Any]

one = Machine("one")


@one.state("wait")
async def wait_one(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Await(Event("greeting", **s.get("filters", {})), timeout=seconds(86_400))
        case Arrived(Event(type="greeting", data=data)):
            return Done(data)
    return None


@pytest.mark.parametrize(
    ("filters", "wrong", "right"),
    [
        ({}, None, {}),
        ({"by": "anna"}, {"by": "otto"}, {"by": "anna"}),
        ({"by": "a*", "at": "x?z"}, {"by": "anna", "at": "xz"}, {"by": "anna", "at": "xyz"}),
        ({"by": "*"}, {}, {"by": ""}),
        ({"source": "tes*", "id": "2"}, {}, {}),
    ],
)
async def test_only_what_the_filters_let_through_counts(
    filters: dict[str, str], wrong: dict[str, str] | None, right: dict[str, str]
) -> None:
    async with machines_of(one) as machines:
        await machines.start(one, "i", {"filters": filters})
        await stands(machines, "i", "wait")
        await machines.publish(event("other", "0", "no"))
        if wrong is not None:
            await machines.publish(event("greeting", "1", "wrong", **wrong))
        await machines.publish(event("greeting", "2", "right", **right))
        assert await machines.result("i") == "right"


async def test_a_wait_that_lasts_too_long_is_a_problem() -> None:
    async with machines_of(one) as machines:
        await machines.start(one, "i")
        with pytest.raises(InstanceFailedError, match="timeout: state 'wait' has taken too long"):
            await machines.result("i")


twice = Machine("twice")


@twice.state("first")
async def first(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Run(work, "slow")
        case Returned():
            return Await(Event("a"))
        case Arrived(each):
            s["got"] = [each.data]
            return To("second")
    return None


@twice.state("second")
async def second(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return AwaitAny(Event("b"), Event("a", by="anna"))
        case AnyArrived(each, index):
            s["got"].append([index, each.data])
            return Done(s["got"]) if each.type == "a" else Stay()
    return None


async def test_events_since_the_start_are_each_given_once_in_order() -> None:
    async with machines_of(twice) as machines:
        await machines.publish(event("a", "0", "before the start"))
        shop.held["slow"] = asyncio.Event()
        await machines.start(twice, "i")
        await shop.begun["slow"].wait()
        for number, kind in enumerate(["b", "a", "a", "a"], 1):
            by = {"by": "anna"} if number == 4 else {}
            assert await machines.publish(event(kind, str(number), number, **by))
            assert not await machines.publish(event(kind, str(number), number, **by))
        shop.held["slow"].set()
        assert await machines.result("i") == [2, [0, 1], [1, 4]]


async def test_what_was_skipped_counts_for_a_later_wait() -> None:
    async with machines_of(skips) as machines:
        await machines.start(skips, "i")
        await stands(machines, "i", "wait")
        for id, by in enumerate(["otto", "otto", "anna"]):
            await machines.publish(event("a", str(id), id, by=by))
        assert await machines.result("i") == [2, 0, 1]


skips = Machine("skips")


@skips.state("wait")
async def skip(s: Values, wake: Wake) -> Next | None:
    got = s.setdefault("got", [])
    if isinstance(wake, Arrived):
        got.append(wake.event.data)
    match got:
        case []:
            return Await(Event("a", by="anna"))
        case [_] | [_, _]:
            return Await(Event("a", by="otto"))
    return Done(got)


both = Machine("both")


@both.state("wait")
async def wait_both(_: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return AwaitAll(Event("a"), Event("b"), Event("a"), timeout=seconds(60))
        case AllArrived(events):
            return Done([[each.type, each.data] for each in events])
    return None


async def test_all_need_all_and_pass_all_in_the_order_of_the_filters() -> None:
    async with machines_of(both) as machines:
        await machines.start(both, "i")
        await machines.publish(event("a", "1", 1))
        await machines.publish(event("b", "2", 2))
        await machines.send_event("i", event("a", "3", 3))
        assert await machines.result("i") == [["a", 1], ["b", 2], ["a", 3]]


async def test_all_with_one_that_is_missing_time_out() -> None:
    async with machines_of(both) as machines:
        await machines.start(both, "i")
        await machines.publish(event("a", "1", 1))
        await machines.publish(event("b", "2", 2))
        with pytest.raises(InstanceFailedError, match="timeout"):
            await machines.result("i")


async def test_each_waiting_instance_gets_an_event_and_only_it_what_is_sent_to_it() -> None:
    async with machines_of(one) as machines:
        for id in ("i", "j", "k"):
            await machines.start(one, id)
            await stands(machines, id, "wait")
        assert await machines.send_event("k", event("greeting", "1", "for k"))
        assert not await machines.send_event("k", event("greeting", "1", "for k"))
        assert await machines.result("k") == "for k"
        await machines.publish(event("greeting", "2", "for all"))
        assert [await machines.result(id) for id in ("i", "j")] == ["for all", "for all"]


async def test_an_event_for_an_instance_may_come_before_it() -> None:
    async with machines_of(one) as machines:
        await machines.send_event("i", event("greeting", "1", "early"), early=True)
        await machines.start(one, "i")
        assert await machines.result("i") == "early"


tells = Machine("tells")


@tells.state("tell")
async def tell(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Run(emit, Event("greeting", {"n": 1}, by=s["by"], subject="x"))
        case Returned(id):
            return Done(id)
    return None


async def test_an_emitted_event_is_found_by_others() -> None:
    async with machines_of(one, tells) as machines:
        await machines.start(one, "i", {"filters": {"by": "anna", "source": "*/t", "subject": "x"}})
        await stands(machines, "i", "wait")
        await machines.start(tells, "t", {"by": "anna"})
        assert await machines.result("i") == {"n": 1}
        assert await machines.result("t") == "t/main/tell/1"


def test_waits_have_a_few_events() -> None:
    with pytest.raises(InvalidInputError, match="from 1 to 20 events"):
        AwaitAny()
    with pytest.raises(InvalidInputError, match="from 1 to 20 events"):
        AwaitAll(*[Event("a")] * 21)
    with pytest.raises(InvalidInputError, match="from 1 to 20 events"):
        Await("a")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="type"):
        Event("")
