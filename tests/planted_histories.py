"""A history that is good, and what makes others of it that are not."""

from collections.abc import Callable
from datetime import timedelta

from msgspec.structs import replace

from flowstate.state import Status
from flowstate.testing.histories.history import (
    Committed,
    Compacted,
    Delivered,
    Failed,
    Filter,
    Invoked,
    LogRow,
    PageRead,
    Record,
    Refused,
    StateRead,
    Stored,
    Unknown,
    WatchBegun,
    WatchEnded,
)
from tests.simulated_histories import BEGINNING

__all__ = ["PAUSED", "PLANTED", "change", "good", "one_commit"]

OTHER, THREE = "other", "three"  # Tokens.
PAUSED = Filter(status=Status.PAUSED)


def page(op: int, invoked: int, at: int, revs: tuple[int, ...], head: int = 6) -> PageRead:
    """Everything from the beginning, in one page."""
    return PageRead(op, invoked, at, Filter(), 0, False, False, revs, head, False, head, 1)


def good() -> list[Record]:
    """Six revisions: 1 of a, 2 and 3 of a and b at once, 4 of b, 5 of c, 6 of a."""
    rows = [
        LogRow(1, "a", "one", status=Status.PAUSED),
        LogRow(2, "a", "two", data=("blob",)),
        LogRow(3, "b", "two"),
        LogRow(4, "b", "three", status=Status.PAUSED),
        LogRow(5, "c", "four"),
        LogRow(6, "a", "five", status=Status.PAUSED),
    ]
    return [
        Invoked(1, 100, "one", (("a", 0),)),
        Committed(1, 110, (1,)),
        StateRead(2, 120, 130, "a", 1),
        StateRead(3, 120, 130, "b", 0),
        Invoked(4, 200, "two", (("a", 1), ("b", 0)), (), ("blob",), (("b", -1),)),
        Committed(4, 210, (2, 3)),
        StateRead(5, 220, 230, "a", 2),
        Invoked(6, 240, "refused", (("a", 1), ("b", 3)), (), ("stray",), (("a", -1),)),
        Refused(6, 250, ("a",)),
        Invoked(7, 300, "three", (("b", 3),), (("a", 2),)),
        Committed(7, 310, (4,)),
        StateRead(8, 320, 330, "b", 4),
        Invoked(9, 400, "four", (("c", 0),), (), (), (("c", -1),)),
        Unknown(9, 410),
        Invoked(10, 500, "five", (("a", 2),)),
        Committed(10, 510, (6,)),
        Invoked(11, 520, "lost", (("a", 6),)),
        Unknown(11, 530),
        Invoked(12, 540, "failed", (("a", 6),)),
        Failed(12, 550),
        Invoked(13, 560, "crashed", (("a", 6),)),
        page(14, 600, 610, (1, 2, 3, 4, 5, 6)),
        WatchBegun(20, 100, "all", Filter(), 0),
        *(Delivered(20, 600 + rev, rev, id) for rev, id in enumerate("aab", 1)),
        WatchEnded(20, 610, 3),
        WatchBegun(21, 620, "all", Filter(), 3),
        *(Delivered(21, 620 + rev, rev, id) for rev, id in enumerate("bca", 4)),
        WatchEnded(21, 640, 6),
        WatchBegun(22, 100, "paused", PAUSED, 0),
        Delivered(22, 700, 1, "a"),
        Delivered(22, 701, 4, "b"),
        Delivered(22, 702, 6, "a"),
        WatchEnded(22, 710, 6),
        *rows,
        Stored(("blob",), ("four.0",)),
    ]


def swap(old: Record, *new: Record) -> Callable[[list[Record]], None]:
    """Put others into the place of a record."""

    def mutate(records: list[Record]) -> None:
        place = records.index(old)
        records[place : place + 1] = new

    return mutate


def change(kind: type[Record], op: int, **fields: object) -> Callable[[list[Record]], None]:
    """Change the record of this kind of an operation; of a row, ``op`` is the revision."""

    def mutate(records: list[Record]) -> None:
        for place, record in enumerate(records):
            if isinstance(record, kind) and op == getattr(record, "op", getattr(record, "rev", 0)):
                records[place] = replace(record, **fields)
                return
        raise LookupError

    return mutate


def add(*new: Record) -> Callable[[list[Record]], None]:
    return lambda records: records.extend(new)


def delivered_by_22(*seen: tuple[int, str]) -> Callable[[list[Record]], None]:
    """Let the watch for what is paused have seen something else."""

    def mutate(records: list[Record]) -> None:
        records[:] = [r for r in records if not (isinstance(r, Delivered) and r.op == 22)]
        records += [Delivered(22, 800 + place, *each) for place, each in enumerate(seen)]

    return mutate


def both(*mutations: Callable[[list[Record]], None]) -> Callable[[list[Record]], None]:
    def mutate(records: list[Record]) -> None:
        for each in mutations:
            each(records)

    return mutate


def one_commit(completed: int | None, *, happened: bool) -> list[Record]:
    """A commit that began at 100, and that somebody else may have seen."""
    records: list[Record] = [Invoked(1, 100, "one", (("a", 0),))]
    if completed:
        records.append(Committed(1, completed, (1,)))
    if happened:
        records.append(LogRow(1, "a", "one"))
    return records


PLANTED: list[tuple[str, Callable[[list[Record]], None], str]] = [
    ("part of a commit is missing", change(LogRow, 3, token=OTHER), "G1"),
    ("a commit wrote another state", change(LogRow, 3, id="d"), "G1"),
    (
        "half a commit is seen",
        add(StateRead(30, 203, 204, "a", 2), StateRead(31, 206, 207, "b", 0)),
        "G1",
    ),
    (
        "data of a commit is lost",
        swap(Stored(("blob",), ("four.0",)), Stored((), ("four.0",))),
        "G1",
    ),
    (
        "data of a refused commit is there",
        swap(Stored(("blob",), ("four.0",)), Stored(("blob", "stray"), ("four.0",))),
        "G1",
    ),
    (
        "a delay of a commit is lost",
        swap(Stored(("blob",), ("four.0",)), Stored(("blob",), ())),
        "G1",
    ),
    (
        "a delay of a refused commit is there",
        swap(Stored(("blob",), ("four.0",)), Stored(("blob",), ("four.0", "refused.0"))),
        "G1",
    ),
    (
        "a delay comes from nowhere",
        swap(Stored(("blob",), ("four.0",)), Stored(("blob",), ("four.0", "strange.0"))),
        "G1",
    ),
    (
        "a page lacks the latest",
        add(PageRead(30, 600, 610, Filter(), 0, False, True, (4, 6), 6, False, 6, 1)),
        "G5",
    ),
    ("a lost update", change(Invoked, 10, puts=(("a", 1),)), "G2"),
    ("a state that was not there", change(Invoked, 10, puts=(("a", 0),)), "G2"),
    ("a check that did not hold", change(Invoked, 7, checks=(("a", 1),)), "G2"),
    (
        "a refused commit is there",
        both(
            add(Invoked(30, 1000, "new", (("d", 5),)), Refused(30, 1010, ("d",))),
            add(LogRow(7, "d", "new")),
        ),
        "G2",
    ),
    (
        "refused without a reason",
        add(Invoked(30, 1000, "x", (("a", 6),)), Refused(30, 1010, ("a",))),
        "G2",
    ),
    (
        "refused for what came later",
        add(Invoked(30, 220, "x", (("a", 2),)), Refused(30, 230, ("a",))),
        "G2",
    ),
    (
        "refused because of nothing",
        add(Invoked(30, 220, "x", (("a", 2),)), Refused(30, 230, ())),
        "G2",
    ),
    (
        "refused because of a stranger",
        add(Invoked(30, 220, "x", (("a", 1),)), Refused(30, 230, ("a", "z"))),
        "G2",
    ),
    ("a mismatch that is not named", change(Invoked, 6, puts=(("a", 1), ("b", 0))), "G2"),
    (
        "a mismatch that is not named, long after it",
        add(Invoked(30, 1_000, "x", (("a", 1), ("c", 0))), Refused(30, 1_010, ("a",))),
        "G2",
    ),
    ("a mismatch never possible is not named", change(Invoked, 6, puts=(("a", 1), ("b", 1))), "G2"),
    (
        "a condition that never held",
        add(Invoked(30, 1000, "x", (), (("a", 1), ("b", 4))), Committed(30, 1010, ())),
        "G2",
    ),
    ("a hole in the log", lambda records: records.remove(LogRow(5, "c", "four")), "G4"),
    ("a revision twice", add(LogRow(5, "c", "four")), "G4"),
    (
        "revisions of one commit apart",
        both(
            change(LogRow, 3, rev=4),
            swap(LogRow(4, "b", "three", status=Status.PAUSED), LogRow(3, "z", "three")),
        ),
        "G4",
    ),
    (
        "commits against their order",
        both(change(Invoked, 9, at=511), change(Unknown, 9, at=520)),
        "G4",
    ),
    ("seen before it was begun", add(StateRead(30, 280, 290, "b", 4)), "G4"),
    (
        "delivered before it was begun",
        add(WatchBegun(40, 1, "x", Filter(), 5), Delivered(40, 499, 6, "a")),
        "G4",
    ),
    (
        "seen before what comes first",
        add(WatchBegun(40, 1, "x", Filter(), 4), Delivered(40, 399, 5, "c")),
        "G4",
    ),
    (
        "time goes back",
        both(
            change(LogRow, 4, committed_at=BEGINNING),
            change(LogRow, 5, committed_at=BEGINNING - timedelta(seconds=1)),
        ),
        "G4",
    ),
    ("a page out of order", change(PageRead, 14, revs=(1, 2, 4, 3, 5, 6)), "G4"),
    ("a stale read", change(StateRead, 5, rev=1), "G5"),
    ("a read of nothing", change(StateRead, 5, rev=0), "G5"),
    (
        "a read goes back behind another",
        add(StateRead(30, 415, 416, "c", 5), StateRead(31, 417, 418, "c", 0)),
        "G5",
    ),
    ("a read behind what a watch has seen", add(StateRead(30, 950, 960, "c", 0)), "G5"),
    ("a read of the wrong revision", change(StateRead, 5, wanted=1), "G5"),
    ("a revision that is not found", add(StateRead(30, 1000, 1010, "a", 0, 6)), "G5"),
    (
        "a latest revision is compacted",
        add(Compacted(900, 7), StateRead(30, 1000, 1010, "a", 0, 6)),
        "G5",
    ),
    (
        "a revision is gone too early",
        add(Compacted(900, 2), StateRead(30, 800, 810, "a", 0, 1)),
        "G5",
    ),
    ("more is compacted", add(Compacted(900, 2), StateRead(30, 1000, 1010, "a", 0, 2)), "G5"),
    (
        "compacted while it was the latest",
        add(Compacted(220, 3), StateRead(30, 230, 235, "a", 0, 2)),
        "G4",
    ),
    ("a read of another state's revision", change(StateRead, 5, rev=3), "G5"),
    ("a page lacks one", change(PageRead, 14, revs=(1, 2, 3, 4, 6)), "G5"),
    ("a page has too much", change(PageRead, 14, filter=PAUSED), "G5"),
    ("a stale page", change(PageRead, 14, revs=(1, 2, 3), head=3, scanned_to=3), "G5"),
    ("a page of what is not the latest", change(PageRead, 14, latest_only=True), "G5"),
    ("a page that ends early", change(PageRead, 14, revs=(1, 2, 3, 4, 5), scanned_to=5), "G5"),
    ("a watch misses one", delivered_by_22((1, "a"), (6, "a")), "G6"),
    ("a watch misses the last", delivered_by_22((1, "a"), (4, "b")), "G6"),
    ("a watch delivers twice", delivered_by_22((1, "a"), (4, "b"), (4, "b"), (6, "a")), "G6"),
    ("a watch changes the order", delivered_by_22((4, "b"), (1, "a"), (6, "a")), "G6"),
    ("a watch delivers too much", delivered_by_22((1, "a"), (2, "a"), (4, "b"), (6, "a")), "G6"),
    (
        "a watch delivers what never was",
        delivered_by_22((1, "a"), (4, "b"), (6, "a"), (7, "a")),
        "G6",
    ),
    ("a watch delivers something else", delivered_by_22((1, "b"), (4, "b"), (6, "a")), "G6"),
    (
        "a watch goes on too late",
        both(
            change(WatchBegun, 21, after=4),
            lambda records: records.remove(Delivered(21, 624, 4, "b")),
        ),
        "G6",
    ),
    (
        "a watch goes on too early",
        both(change(WatchBegun, 21, after=2), add(Delivered(21, 800, 3, "b"))),
        "G6",
    ),
    (
        "acknowledged and lost",
        lambda records: records.remove(LogRow(6, "a", "five", status=Status.PAUSED)),
        "G7",
    ),
    ("acknowledged as something else", change(Committed, 7, revs=(5,)), "G7"),
    ("read and lost", add(StateRead(30, 1000, 1010, "a", 7)), "G7"),
    ("the head of a page is lost", change(PageRead, 14, head=7), "G7"),
    ("applied twice", add(LogRow(7, "b", "three")), "G8"),
    (
        "applied twice at once",
        both(
            change(LogRow, 6, rev=7),
            change(LogRow, 5, rev=6),
            change(LogRow, 4, token=THREE),
            add(LogRow(5, "b", "three")),
        ),
        "G8",
    ),
    (
        "failed and there",
        both(change(Invoked, 12, puts=(("a", 6),)), add(LogRow(7, "a", "failed"))),
        "G8",
    ),
    ("nobody committed it", add(LogRow(7, "a", "nobody")), "G8"),
]
