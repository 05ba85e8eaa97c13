"""Does the checker find what is planted, and nothing in histories that are good?"""

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstate.testing.histories.checker import check
from flowstate.testing.histories.history import (
    Committed,
    Compacted,
    Delivered,
    Failed,
    Filter,
    History,
    Invoked,
    LogRow,
    PageRead,
    Record,
    StateRead,
    Unknown,
    WatchBegun,
)
from tests.planted_histories import PAUSED, PLANTED, change, good, one_commit
from tests.simulated_histories import Simulation, simulate


@pytest.mark.parametrize(("mutate", "guarantee"), [pytest.param(m, g, id=n) for n, m, g in PLANTED])
def test_finds_what_is_planted(mutate: Callable[[list[Record]], None], guarantee: str) -> None:
    records = good()
    mutate(records)

    violations = check(History(records))

    assert guarantee in {violation.guarantee for violation in violations}, violations
    assert all(f"{violation}".startswith(violation.guarantee) for violation in violations)


def test_finds_nothing_in_a_good_history() -> None:
    assert check(History(good())) == []


def test_what_was_compacted_need_not_be_found() -> None:
    records = [*good(), Compacted(900, 6), StateRead(30, 1000, 1010, "a", 0, 2)]
    assert check(History(records)) == []


def test_knows_which_revisions_were_the_latest() -> None:
    records = good()
    for head, revs in enumerate([(1,), (2,), (2, 3), (2, 4), (2, 4, 5), (4, 5, 6)], 1):
        moment = [105, 205, 205, 305, 405, 505][head - 1]
        records.append(
            PageRead(30, moment, moment, Filter(), 0, False, True, revs, head, False, head, 1)
        )

    assert [violation.guarantee for violation in check(History(records))] == ["G1"]  # Head 2.


def test_finds_nothing_in_no_history() -> None:
    assert check(History([])) == []


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32), operations=st.integers(0, 150))
def test_finds_nothing_in_generated_histories(seed: int, operations: int) -> None:
    records = Simulation(random.Random(seed), ids=5).run(operations)

    assert check(History(records)) == []


@pytest.mark.parametrize("seed", range(4))
def test_finds_nothing_in_long_histories(seed: int) -> None:
    assert check(History(simulate(seed, 3_000))) == []


def test_says_which_operations_contradict_each_other() -> None:
    records = good()
    change(StateRead, 5, rev=1)(records)

    (violation,) = check(History(records))

    assert f"{violation}" == (
        "G5 visible: revisions 2-3 acknowledged, and missed by an operation that began later\n"
        "    0.000000-0.000000 commit two: put 'a' over 1, put 'b' over 0, store 1 data, delay 'b'"
        " -> revisions 2, 3\n"
        "    0.000000-0.000000 get 'a' -> revision 1"
    )


def test_says_no_more_than_it_is_asked_to() -> None:
    records: list[Record] = [LogRow(rev, f"{rev}", f"{rev}") for rev in range(1, 100)]

    assert len(check(History(records))) == 99
    assert len(check(History(records), limit=10)) == 10


@pytest.mark.parametrize(
    ("invoked", "at", "rev", "bad"),
    [
        (50, 99, 1, True),
        (50, 100, 1, False),  # Both moments are the same.
        (50, 99, 0, False),
        (200, 300, 0, False),
        (201, 300, 0, True),
        (201, 300, 1, False),
        (100, 200, 0, False),
        (100, 200, 1, False),
    ],
)
def test_operations_that_touch(invoked: int, at: int, rev: int, bad: bool) -> None:
    records = [*one_commit(200, happened=True), StateRead(2, invoked, at, "a", rev)]

    assert bool(check(History(records))) is bad


@pytest.mark.parametrize("outcome", [None, Unknown(1, 200)])
@pytest.mark.parametrize("happened", [False, True])
def test_unknown_commits_may_have_happened(outcome: Unknown | None, happened: bool) -> None:
    records = one_commit(None, happened=happened)
    records += [outcome] if outcome else []
    # However much later it was applied.
    records.append(StateRead(2, 300, 310, "a", 0))
    if happened:
        records.append(StateRead(3, 400, 410, "a", 1))

    assert check(History(records)) == []

    seen = StateRead(4, 350, 360, "a", 1)
    assert bool(check(History([*records, seen]))) is not happened


@pytest.mark.parametrize("first", [Unknown(1, 200), Failed(1, 200), None])
def test_a_commit_that_is_sent_again_happens_once(first: Unknown | Failed | None) -> None:
    records = one_commit(None, happened=True)
    records += [first] if first else []
    records += [Invoked(2, 300, "one", (("a", 0),)), Committed(2, 400, (1,))]

    assert check(History(records)) == []
    # When the first one failed, the second one did it.
    early = StateRead(3, 240, 250, "a", 1)
    assert bool(check(History([*records, early]))) is isinstance(first, Failed)
    late = StateRead(4, 401, 450, "a", 0)
    assert [violation.guarantee for violation in check(History([*records, late]))] == ["G5"]


def test_a_watch_since_the_latest_begins_with_the_latest() -> None:
    def records(rev: int, id: str) -> list[Record]:
        begun = WatchBegun(40, 1_000, "newest", PAUSED, 0, since_latest=True)
        return [*good(), begun, Delivered(40, 1_010, rev, id)]

    assert check(History(records(6, "a"))) == []
    assert {violation.guarantee for violation in check(History(records(4, "b")))} == {"G5"}


def test_who_was_killed_may_see_revisions_again_but_misses_none() -> None:
    def records(after: int) -> list[Record]:
        seen = [Delivered(41, 1_100 + rev, rev, "aabbca"[rev - 1]) for rev in range(after + 1, 7)]
        return [
            *good(),
            WatchBegun(40, 1_000, "x", Filter(), 0),
            *(Delivered(40, 1_000 + rev, rev, "aab"[rev - 1]) for rev in range(1, 4)),
            WatchBegun(41, 1_100, "x", Filter(), after),
            *seen,
        ]

    assert check(History(records(2))) == []
    assert check(History(records(3))) == []
    assert {violation.guarantee for violation in check(History(records(4)))} == {"G6"}


def test_a_million_operations_take_less_than_15_seconds() -> None:
    records = simulate(1, 112_000)
    started = time.process_time()
    history = History(records)
    assert check(history) == []
    seconds = time.process_time() - started
    watched = sum(len(session.delivered) for session in history.sessions)
    operations = len(history.attempts) + len(history.reads) + len(history.pages) + watched
    assert operations > 200_000
    assert seconds / operations < 15 / 1_000_000


def test_what_ends_must_have_begun() -> None:
    records = [record for record in simulate(1, 100) if not isinstance(record, Invoked)]
    with pytest.raises(ValueError, match="does not begin"):
        History(records)
