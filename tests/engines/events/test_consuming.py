"""Which events a filter and a strategy want."""

from typing import Any

import pytest

from flowstate.engines.events.consuming import Filter, Key, Strategy
from flowstate.engines.events.publishing import MORE
from flowstate.engines.expressions.in_process import InProcessExpressions

evaluate = InProcessExpressions().evaluate


def event(type: str = "paid", **more: Any) -> dict[str, Any]:  # noqa: A002 - as CloudEvents say
    return {"specversion": "1.0", "id": "1", "source": "/shop", "type": type, **more}


PAID = event(
    subject="o-7",
    count=3,
    fast=True,
    data={"order": 7, "cents": 5, "buyer": {"name": "a", "old": True}},
)


@pytest.mark.parametrize(
    ("wanted", "is_met"),
    [
        (Filter(), True),
        (Filter({"type": "paid"}), True),
        (Filter({"type": "pai"}), False),
        (Filter({"region": "eu"}), False),
        (Filter({"data": {"order": 7}}), True),
        (Filter({"count": 3, "fast": "true"}), True),
        (Filter({"count": "3", "fast": True}), True),
        (Filter({"count": 4}), False),
        (Filter(tests={"count": '"3"'}), True),
        (Filter({"data": {"buyer": {"name": "a"}}}), True),
        (Filter({"data": {"buyer": {"name": "b"}}}), False),
        (Filter({"data": {"none": None}}), False),
        (Filter({"data": {"buyer": {"old": 1}}}), False),
        (Filter(like={"type": "pa.*"}), True),
        (Filter(like={"type": "a.*"}), False),
        (Filter(like={"subject": r'o-\d|"\(1\)'}), True),
        (Filter(like={"region": ".*"}), False),
        (Filter(like={"subject": "["}), False),
        (Filter(tests={"data": ".cents > 4"}), True),
        (Filter(tests={"data": ".cents > 5"}), False),
        (Filter(tests={"data": ".cents"}), False),
        (Filter(tests={"data": "empty"}), False),
        (Filter(tests={"data": ".cents | .x"}), False),
        (Filter(tests={"subject": 'startswith("o-")'}), True),
        (Filter(tests={"subject": '"o-" + "7"'}), True),
        (Filter(tests={"region": "true"}), False),
        (Filter({"type": "paid"}, tests={"data": "false"}), False),
        (Filter(keys={"order": Key(".data.order")}), True),
        (Filter(keys={"order": Key(".data.order", 7)}), True),
        (Filter(keys={"order": Key(".data.order", "7")}), False),
        (Filter(keys={"order": Key(".data.none")}), False),
        (Filter(keys={"order": Key(".data.cents.x")}), False),
    ],
)
async def test_a_filter(wanted: Filter, is_met: bool) -> None:
    assert await wanted.meets(PAID, {}, evaluate) is is_met


async def test_keys_are_those_of_the_first_event_that_is_wanted() -> None:
    known: dict[str, Any] = {}
    both = Filter({"type": "paid"}, keys={"o": Key(".data.order"), "b": Key(".data.buyer.name")})

    assert not await both.meets(event("else", data=PAID["data"]), known, evaluate)
    assert not await both.meets(event(data={"order": 7}), known, evaluate)
    assert known == {}
    assert await both.meets(PAID, known, evaluate)
    assert known == {"o": 7, "b": "a"}
    assert not await both.meets(event(data={"order": 8, "buyer": {"name": "a"}}), known, evaluate)
    assert await Filter(keys={"o": Key(".data.n", 8)}).meets(event(data={"n": 8}), known, evaluate)
    assert known == {"o": 8, "b": "a"}


async def offered(strategy: Strategy, *events: dict[str, Any]) -> list[str]:
    known: dict[str, Any] = {}
    return [await strategy.offer(each, known, evaluate) for each in events]


def of(*types: str) -> list[Filter]:
    return [Filter({"type": each}) for each in types]


async def test_all_takes_one_event_for_each_filter() -> None:
    strategy = Strategy("all", of("a", "b", "a"))

    assert await offered(strategy, event("a"), event("c")) == ["wanted", ""]
    assert not await strategy.is_met([], evaluate)
    assert await offered(strategy, *map(event, "aab")) == ["wanted", "", "wanted"]
    assert await strategy.is_met([], evaluate)
    assert await Strategy("all", []).is_met([], evaluate)


async def test_any_takes_the_first_or_goes_on_until() -> None:
    first = Strategy("any", of("a", "b"))
    assert not await first.is_met([], evaluate)
    assert await offered(first, event("c"), event("b")) == ["", "wanted"]
    assert await first.is_met([], evaluate)

    length = Strategy("any", [], until_program="length > 2")
    assert await offered(length, event("a")) == ["wanted"]
    assert not await length.is_met([1, 2], evaluate)
    assert await length.is_met([1, 2, 3], evaluate)
    always = Strategy("any", [], until_program="true")
    assert not await always.is_met([], evaluate)

    strategy = Strategy("any", [], until=Strategy("all", of("x", "y")))
    found = await offered(strategy, *map(event, "axxy"))
    assert found == ["wanted", "until", "wanted", "until"]
    assert await strategy.is_met([1, 2], evaluate)


@pytest.mark.parametrize(
    ("filters", "fields"),
    [
        ([Filter({"type": "a"})], [("type", "a")]),
        ([Filter({"source": "/s", "type": "a"})], [("type", "a")]),
        ([Filter({"subject": "x", "type": "a"})], [("subject", "x")]),
        ([Filter({"region": "eu", "type": "a"})], [("region", "eu"), MORE]),
        ([Filter({"count": 3, "type": "a"})], [("count", "3"), MORE]),
        ([Filter({"type": "a", "data": {"o": 7}})], [("data.o", 7), MORE]),
        ([Filter({"type": "a", "data": {"o": True}})], [("type", "a")]),
        ([Filter({"type": "a", "id": "1", "time": "x"})], [("type", "a")]),
        ([Filter({"type": "a"}, keys={"o": Key(".data.o", 7)})], [("data.o", 7), MORE]),
        ([Filter({"type": "a"}, keys={"known": Key(".data.o")})], [("data.o", 5), MORE]),
        ([Filter({"type": "a"}, keys={"o": Key(".data.o")})], [("type", "a")]),
        ([Filter({"type": "a"}, keys={"o": Key(".data.o + 1", 7)})], [("type", "a")]),
        ([Filter({"type": "a"}, keys={"o": Key(".id", "7")})], [("type", "a")]),
        ([*of("a", "b", "a")], [("type", "a"), ("type", "b")]),
        ([*of("a"), Filter(like={"type": "b.*"})], []),
        ([Filter({"type": str(n)}) for n in range(9)], []),
        ([], []),
    ],
)
def test_by_which_fields_the_fewest_events_are_found(filters: Any, fields: Any) -> None:
    assert Strategy("any", filters).found_by({"known": 5}) == fields


def test_what_ends_it_is_looked_for_too() -> None:
    until = Strategy("all", of("x"))

    assert Strategy("any", of("a"), until=until).found_by({}) == [("type", "a"), ("type", "x")]
    assert Strategy("any", [], until=until).found_by({}) == []
