"""The checker of histories knows what forgetting, timers and ids of pages may do, and may not."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from flowstate.testing.histories.checker import check
from flowstate.testing.histories.history import (
    Committed,
    Compacted,
    Filter,
    History,
    Invoked,
    LogRow,
    PageRead,
    Record,
    Refused,
    StateRead,
    Stored,
)

STORED = Stored((), (), ("t",))


def page(op: int, at: int, head: int, *revs: int, id: str | None = None) -> PageRead:
    """Return a page at one moment: of one state, or of the latest revisions."""
    latest = id is None
    return PageRead(op, at, at, Filter(id=id), 0, False, latest, revs, head, False, head, 1)


def good() -> list[Record]:
    """State "a" has a timer, is forgotten, and begins again with that timer."""
    return [
        LogRow(1, "a", "one"),
        LogRow(2, "a", "two", forgotten=True),
        LogRow(3, "a", "three"),
        LogRow(4, "b", "four"),
        Invoked(1, 100, "one", (("a", 0),), timers=("t",)),
        Committed(1, 110, (1,)),
        Invoked(2, 200, "two", (("a", 1),), cancels=("t",)),
        Committed(2, 210, (2,)),
        StateRead(20, 220, 230, "a", 0),
        Invoked(21, 220, "late", (("a", 1),)),
        Refused(21, 230, ("a",)),
        page(22, 240, 2),
        Invoked(3, 300, "three", (("a", 0),), timers=("t",)),
        Committed(3, 310, (3,)),
        StateRead(23, 320, 330, "a", 3),
        Invoked(24, 320, "again", (("a", 0),), timers=("again",)),
        Refused(24, 330, ("a",)),
        Invoked(4, 400, "four", (("b", 0),), (("a", 3),)),
        Committed(4, 410, (4,)),
        page(25, 420, 4, 3, 4),
        page(26, 420, 4, 1, 2, 3, id="a"),
        StateRead(27, 500, 510, "a", 2, 2),
        STORED,
    ]


def swap(old: Record, new: Record) -> Callable[[list[Record]], None]:
    def mutate(records: list[Record]) -> None:
        records[records.index(old)] = new

    return mutate


def change(op: int, **fields: object) -> Callable[[list[Record]], None]:
    """Change the first record of an operation."""

    def mutate(records: list[Record]) -> None:
        place = next(n for n, each in enumerate(records) if getattr(each, "op", None) == op)
        records[place] = replace(records[place], **fields)

    return mutate


def add(*new: Record) -> Callable[[list[Record]], None]:
    return lambda records: records.extend(new)


PLANTED: list[tuple[str, Callable[[list[Record]], None], str]] = [
    ("found although it is forgotten", change(20, rev=1), "G5"),
    ("found as what forgot it", change(20, rev=2), "G5"),
    ("not found before it is forgotten", add(StateRead(30, 120, 130, "a", 0)), "G5"),
    ("not found once it has begun again", change(23, rev=0), "G5"),
    ("found before it has begun again", add(StateRead(30, 240, 250, "a", 3)), "G4"),
    ("put over the revision that forgot it", change(3, puts=(("a", 2),)), "G2"),
    ("begun again without being forgotten", swap(good()[1], LogRow(2, "a", "two")), "G2"),
    ("checked although it is forgotten", change(4, checks=(("a", 2),)), "G2"),
    (
        "refused as if it were there",
        add(Invoked(30, 240, "x", (("a", 0),)), Refused(30, 250, ("a",))),
        "G2",
    ),
    (
        "not refused because of what forgot it",
        add(Invoked(30, 240, "x", (("a", 2), ("b", 1))), Refused(30, 250, ("b",))),
        "G2",
    ),
    ("latest although it is forgotten", change(22, revs=(2,)), "G5"),
    ("latest although it was forgotten and has begun again", change(25, revs=(2, 3, 4)), "G5"),
    ("on a page of another state", change(26, revs=(1, 2, 3, 4)), "G5"),
    ("missing on the page of its state", change(26, revs=(2, 3)), "G5"),
    ("gone without compaction", change(27, rev=0), "G5"),
    ("a timer is lost", swap(STORED, Stored((), ())), "G1"),
    ("a timer is there once it was removed", change(3, timers=()), "G1"),
    ("a timer of a refused commit", swap(STORED, Stored((), (), ("again", "t"))), "G1"),
]


@pytest.mark.parametrize(("mutate", "guarantee"), [pytest.param(m, g, id=n) for n, m, g in PLANTED])
def test_finds_what_is_planted(mutate: Callable[[list[Record]], None], guarantee: str) -> None:
    records = good()
    mutate(records)

    violations = check(History(records))

    assert guarantee in {violation.guarantee for violation in violations}, violations


def test_finds_nothing_in_a_good_history() -> None:
    assert check(History(good())) == []


def test_what_was_forgotten_and_compacted_need_not_be_found() -> None:
    records = [*good(), Compacted(600, 3), StateRead(30, 700, 710, "a", 0, 2)]
    assert check(History(records)) == []


def test_a_timer_that_was_removed_by_itself_may_be_gone() -> None:
    removed = Invoked(30, 600, "drop", (), (("a", 3),), cancels=("t",))
    for left in ((), ("t",)):  # In which order that and other commits came, the log does not say.
        records = [*good(), removed, Committed(30, 610, ())]
        records[records.index(STORED)] = Stored((), (), left)
        assert check(History(records)) == []


def test_one_of_several_times_is_told_by_the_clock() -> None:
    """A state that comes and goes was gone several times: an observation is of one it can be of."""
    records: list[Record] = []
    for rev in range(1, 21):
        at = rev * 100
        records.append(LogRow(rev, "a", f"{rev}", forgotten=rev % 2 == 0))
        records.append(Invoked(rev, at, f"{rev}", (("a", (rev - 1) * (1 - rev % 2)),)))
        records.append(Committed(rev, at + 10, (rev,)))
    assert check(History(records)) == []
    assert check(History([*records, StateRead(30, 850, 860, "a", 0)])) == []
    assert check(History([*records, StateRead(30, 850, 950, "a", 0)])) == []
    found = check(History([*records, StateRead(30, 950, 960, "a", 0)]))
    assert {violation.guarantee for violation in found} == {"G5"}
