"""What drivers share: from rows to states, pages, and what is due; damage is named."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from flowstate import (
    CompactedError,
    DamagedRevisionError,
    FakeClock,
    State,
    StoreUnavailableError,
    SystemClock,
    Transition,
)
from flowstate.codec import DelayBody, encode_body, encode_delay
from flowstate.driver import DueQuery, NewTimer, StateQuery
from flowstate.drivers.kit.records import (
    TIMER_REV,
    Row,
    due_page,
    liveness_of,
    page_of,
    state_of,
    state_or_raise,
)
from flowstate.drivers.kit.scanning import in_lists, scanned_due_page, scanned_page
from flowstate.drivers.kit.threads import Worker
from flowstate.drivers.kit.times import FIRST, LAST, due_micros, later_micros, to_micros

NOW = datetime(2024, 1, 1, tzinfo=UTC)
NO_REVISION = (None,) * 5


def row(rev: int, id: str, size: int = 0) -> tuple[object, ...]:
    body = encode_body(State(id, annotations={"x": "x" * size}, transition=Transition("a")))
    return rev, id, to_micros(NOW), None, body


def test_a_page_names_what_it_cannot_read() -> None:
    rows = [row(1, "a"), (2, b"b\xff", 0, None, "{"), (3, "c", "x", None, "{}"), row(4, "d")]
    page = page_of(StateQuery(), rows, head=4, floor=1)
    assert [state.id for state in page.states] == ["a", "d"]
    assert [(bad.rev, bad.id) for bad in page.damaged] == [(2, "b\ufffd"), (3, "c")]
    assert (page.scanned_to, page.more) == (4, False)


def test_a_page_ends_with_the_state_that_fills_it() -> None:
    rows = [row(n, f"{n}", 400) for n in range(1, 6)]
    page = page_of(StateQuery(max_bytes=1_000), rows, head=9, floor=1)
    assert [state.rev for state in page.states] == [1, 2, 3]
    assert (page.scanned_to, page.more) == (3, True)
    page = page_of(StateQuery(max_bytes=1), rows, head=9, floor=1)
    assert [state.rev for state in page.states] == [1]
    page = page_of(StateQuery(limit=5), rows, head=9, floor=1)
    assert (page.scanned_to, page.more) == (9, False)


def test_a_body_of_another_state_is_damage() -> None:
    _, _, *rest = row(1, "a")
    with pytest.raises(DamagedRevisionError) as refused:
        state_or_raise((1, "b", *rest))
    assert (refused.value.rev, refused.value.id) == (1, "b")
    assert state_of(row(1, "a")).committed_at == NOW


# What is due


def timer(id: str, state_id: str, latest: Row = NO_REVISION, due: int = 7) -> Row:
    body = encode_delay(DelayBody("a", timer="alarm"))
    return (id, due, state_id, TIMER_REV, body, *latest)


def due_of(*rows: Row) -> list[tuple[str, str, int]]:
    page = due_page(DueQuery("delay"), rows, more=False, now=NOW, next_at=None)
    assert not page.damaged
    return [(each.id, each.timer, each.state.rev) for each in page.due]


def test_a_timer_has_the_latest_revision() -> None:
    assert due_of(timer("t", "a", row(5, "a"))) == [("t", "alarm", 5)]
    assert due_of(timer("t", "a")) == [("t", "alarm", 0)]  # The state is forgotten.


@pytest.mark.parametrize(
    "bad",
    [
        timer("t", "a", row(5, "b")),
        timer("t", "a", (5, "a", 0, None, "{")),
        ("t", 7, "a", 5, encode_delay(DelayBody("a", timer="alarm")), *row(5, "a")),
        ("t", 7, "a", TIMER_REV, encode_delay(DelayBody("a")), *row(5, "a")),
        ("t", 7, "a", TIMER_REV, "{", *row(5, "a")),
    ],
    ids=["another state", "its state", "a revision of its own", "no name", "itself"],
)
def test_a_damaged_timer_is_named(bad: Row) -> None:
    rows = [bad, timer("u", "c", row(6, "c"))]
    page = due_page(DueQuery("delay"), rows, more=False, now=NOW, next_at=None)
    assert [each.id for each in page.due] == ["u"]
    assert [(each.id, each.state_id) for each in page.damaged] == [("t", "a")]


def test_idle_states_are_due_at_the_first_moment() -> None:
    rows = [("a", None, "a", 1, "", *row(1, "a")), ("b", 7, "b", 2, "", 2, "b", 0, None, "{")]
    page = due_page(DueQuery("idle"), rows, more=True, now=NOW, next_at=None)
    first = datetime.min.replace(tzinfo=UTC)
    assert [(each.id, each.due) for each in page.due] == [("a", first)]
    assert [(bad.id, bad.due) for bad in page.damaged] == [("b", first)]
    assert page.next_at == first
    assert page.end == (first, "b")


def test_liveness_counts_the_delays_that_can_be_read() -> None:
    body = encode_delay(DelayBody("a"))
    good = [("1", 9, "a", 3, body, *row(3, "a")), ("2", 8, "a", 3, body, *row(3, "a"))]
    bad = ("3", 7, "a", 3, "{", *row(3, "a"))
    found = liveness_of((3, None, 5, "note"), [*good, bad], NOW)
    assert (found.rev, found.stalls_at, found.note, found.now) == (3, None, "note", NOW)
    assert (found.beat_at, found.delay_due) == (at(5), at(8))
    assert liveness_of((3, 4, None, ""), [bad], NOW).delay_due is None


def at(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


# Times


def test_times_end_with_the_last_moment() -> None:
    new = NewTimer("t", "alarm", 0, "a", None, timedelta(days=9_000 * 365), "")
    assert due_micros(new, to_micros(NOW)) == LAST
    assert later_micros(LAST - 1, 1.0) == LAST
    assert later_micros(5, 0.000_002) == 7
    assert due_micros(NewTimer("t", "alarm", 0, "a", NOW, None, ""), FIRST) == to_micros(NOW)


# Pages of rows that are read one by one


def candidates(revs: Iterable[int], looked_at: list[int]) -> Callable[[int, int], Iterable[Row]]:
    def read(rev: int, step: int) -> Iterable[Row]:
        for found in sorted(revs, reverse=step < 0):
            if (found - rev) * step >= 0:
                looked_at.append(found)
                yield row(found, f"s{found}")

    return read


def test_a_scanned_page_takes_no_more_than_it_needs() -> None:
    looked_at: list[int] = []
    read = candidates(range(1, 10), looked_at)
    page = scanned_page(StateQuery(limit=2, after=3), read, head=9, floor=1)
    assert [state.rev for state in page.states] == [4, 5]
    assert (page.scanned_to, page.more) == (5, True)
    assert looked_at == [4, 5, 6]
    page = scanned_page(StateQuery(max_bytes=1, after=7), read, head=9, floor=1)
    assert ([state.rev for state in page.states], page.more) == ([8], True)
    page = scanned_page(StateQuery(limit=2, after=7), read, head=9, floor=1)
    assert ([state.rev for state in page.states], page.more) == ([8, 9], False)


def test_a_scanned_page_ends_after_so_many_candidates() -> None:
    read = candidates(range(1, 10), [])
    page = scanned_page(StateQuery(id="s9"), read, head=9, floor=1, most=5)
    assert (page.states, page.scanned_to, page.more) == ([], 5, True)
    page = scanned_page(StateQuery(id="s9", after=5), read, head=9, floor=1, most=5)
    assert ([state.rev for state in page.states], page.scanned_to) == ([9], 9)
    with pytest.raises(CompactedError):
        scanned_page(StateQuery(gaps_below=0), read, head=9, floor=4)


def test_a_scanned_page_begins_with_the_newest() -> None:
    read = candidates(range(1, 10), [])
    page = scanned_page(StateQuery(id="s4", since_latest=True), read, head=9, floor=1)
    assert [state.rev for state in page.states] == [4]
    page = scanned_page(StateQuery(id="none", since_latest=True), read, head=9, floor=1)
    assert (page.states, page.scanned_to, page.more) == ([], 9, False)


def test_lists_leap_over_what_only_one_of_them_has() -> None:
    lists = {"a": [*range(1, 1_001)], "b": [3, 500, 2_000], "c": [7], "none": list[int]()}
    asked: list[str] = []

    def nearest(name: str, rev: int, step: int) -> int | None:
        asked.append(name)
        found = [each for each in lists[name] if (each - rev) * step >= 0]
        return (min(found) if step > 0 else max(found)) if found else None

    assert {3, 500} <= set(in_lists([["a", "b"]], nearest, 1, 1))
    assert len(asked) < 20
    assert [*in_lists([["b"], ["c"], ["none"]], nearest, 1, 1)] == [3, 7, 500, 2_000]
    assert [*in_lists([["b"], ["b", "c"], ["b"]], nearest, 1_000, -1)][:2] == [500, 7]


def test_a_scanned_page_of_what_is_due() -> None:
    rows = [timer(f"t{n}", "a", row(5, "a"), due=n) for n in range(1, 6)]
    page = scanned_due_page(DueQuery("delay"), iter(rows), now=3)
    assert ([each.id for each in page.due], page.more) == (["t1", "t2", "t3"], False)
    assert (page.next_at, page.now) == (at(4), at(3))
    page = scanned_due_page(DueQuery("delay", limit=2), iter(rows), now=3)
    assert ([each.id for each in page.due], page.more, page.next_at) == (["t1", "t2"], True, at(3))
    page = scanned_due_page(DueQuery("delay", until=at(1), limit=1), iter(rows), now=9)
    assert ([each.id for each in page.due], page.more, page.next_at) == (["t1"], False, at(2))
    page = scanned_due_page(DueQuery("delay", everything=True), iter(rows), now=0)
    assert (len(page.due), page.more, page.next_at) == (5, False, None)


def test_a_scanned_page_names_other_flows() -> None:
    firsts = {"a": 1, "b": 2, "c": 9} | {f"d{n:03}": 1 for n in range(150)}
    query = DueQuery("delay", flows=("a",), others=True)
    page = scanned_due_page(query, iter(()), now=3, firsts=firsts)
    assert page.others == ["b", *(f"d{n:03}" for n in range(99))]
    query = DueQuery("delay", flows=("a",))
    assert scanned_due_page(query, iter(()), now=3, firsts=firsts).others == []
    query = DueQuery("delay", others=True)
    assert scanned_due_page(query, iter(()), now=3, firsts=firsts).others == []


# A thread


async def test_a_thread_works_in_order_and_on_when_nothing_waits() -> None:
    worker, done, go = Worker("test", SystemClock(), 5.0), list[int](), threading.Event()

    def wait() -> None:
        go.wait()
        done.append(1)

    first = asyncio.ensure_future(worker.do(wait))
    second = asyncio.ensure_future(worker.do(partial(done.append, 2)))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    await second
    assert done == [1, 2]
    worker.stop()


async def test_a_thread_that_stands_still_is_not_waited_for() -> None:
    worker, go = Worker("test", FakeClock(), 0.0), threading.Event()
    with pytest.raises(StoreUnavailableError, match="test"):
        await worker.do(go.wait)
    go.set()
    worker.stop()


async def test_what_a_thread_raises_goes_to_who_waits() -> None:
    worker = Worker("test", FakeClock(), 5.0)
    with pytest.raises(LookupError, match="nothing"):
        await worker.do(lambda: raising(LookupError("nothing")))
    worker.stop()


def raising(error: Exception) -> None:
    raise error
