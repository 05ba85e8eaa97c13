"""Timers: the rules, and what a commit writes for them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import (
    CancelTimer,
    Commit,
    End,
    Engine,
    FakeClock,
    InvalidCommandError,
    InvalidInputError,
    Pause,
    Put,
    SetTimer,
    State,
    StateContext,
    Status,
    Timer,
    Transit,
)
from flowstate.timers import (
    changed_timers,
    lasting_timers,
    timer_id,
    timer_to_fire,
    without_timer,
)
from tests.timers import AT, HOUR, SECOND, Recorder, begun, opened

NOW = timedelta(0)
LAST = datetime.max.replace(tzinfo=UTC)
RELATIVE = Timer("ring", after=HOUR)
ABSOLUTE = Timer("ring", AT + HOUR)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with opened(driver, clock) as engine:
        yield engine


# The rules


def stored(**timers: Timer) -> State:
    return State("a", 7, committed_at=AT, timers=timers)


def test_a_timer_gets_its_time_with_the_next_revision() -> None:
    known = stored(kept=RELATIVE, absolute=ABSOLUTE, set=RELATIVE)
    current = replace(known, timers={**known.timers, "set": Timer("ring", after=HOUR)})

    found = lasting_timers(current, known)

    assert found == {"kept": ABSOLUTE, "absolute": ABSOLUTE, "set": RELATIVE}
    assert lasting_timers(replace(current, status=Status.ENDED), known) == {}
    only_absolute = stored(absolute=ABSOLUTE)
    assert lasting_timers(only_absolute, only_absolute) is only_absolute.timers


@pytest.mark.parametrize(
    ("before", "after", "is_set"),
    [
        (RELATIVE, RELATIVE, False),
        (RELATIVE, ABSOLUTE, False),  # As the next revision has it.
        (RELATIVE, Timer("ring", after=HOUR), True),
        (RELATIVE, Timer("ring", AT + 2 * HOUR), True),
        (RELATIVE, Timer("other", AT + HOUR), True),
        (ABSOLUTE, Timer("ring", AT + HOUR), False),
        (ABSOLUTE, RELATIVE, True),
        (None, RELATIVE, True),
        (None, ABSOLUTE, True),
    ],
)
def test_what_counts_as_set_again(before: Timer | None, after: Timer, is_set: bool) -> None:
    known = stored(**({"t": before} if before else {}))

    assert changed_timers({"t": after}, known) == (["t"] if is_set else [], [])
    assert changed_timers({}, known) == ([], ["t"] if before else [])


def test_a_timer_that_counts_from_an_unknown_time_is_set_again() -> None:
    known = replace(stored(t=RELATIVE), committed_at=None)

    assert lasting_timers(known, known) is known.timers
    assert changed_timers(known.timers, known) == (["t"], [])


def test_a_timer_is_the_same_in_all_revisions_that_have_it() -> None:
    first = stored(t=RELATIVE)
    second = replace(first, rev=8, committed_at=AT + SECOND, timers=lasting_timers(first, first))

    assert timer_to_fire(first, "t") == timer_to_fire(second, "t") == ABSOLUTE
    assert timer_to_fire(first, "other") is None
    assert timer_to_fire(replace(first, status=Status.ENDED), "t") is None
    assert without_timer(stored(t=RELATIVE, u=ABSOLUTE), "t") == {"u": ABSOLUTE}


def test_times_beyond_the_last_one_are_that_one() -> None:
    state = replace(stored(t=Timer("ring", after=timedelta(days=365_000))), committed_at=LAST)

    assert state.timer_due("t") == LAST
    assert stored(t=RELATIVE).timer_due("t") == AT + HOUR
    assert stored().timer_due("t") is None
    assert State("new", timers={"t": RELATIVE}).timer_due("t") is None


def test_ids_of_rows_are_short_and_differ() -> None:
    ids = {
        timer_id(id, name) for id in ("a", "b", "ab", "é" * 256) for name in ("", "a", "b", "ba")
    }

    assert len(ids) == 16
    assert {len(id) for id in ids} == {len("timer-") + 40}


# What a commit writes


async def test_commits_write_what_has_changed_and_no_more(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ctx = await begun(engine, "one", "two")
    (one, two), gone = driver.rows
    assert [(row.name, row.put, row.to, row.due, row.after) for row in (one, two)] == [
        ("one", 0, "ring", None, HOUR),
        ("two", 0, "ring", None, HOUR),
    ]
    assert gone == []
    due = ctx.current.timer_due("one")
    await clock.sleep(60.0)
    for command in (Transit(ctx, "work"), Pause(ctx), Put(ctx)):
        await engine.do(Commit(command))
        assert driver.rows == ([], [])
    assert ctx.committed.timers == {"one": Timer("ring", due), "two": Timer("ring", due)}
    again = SetTimer(ctx, "one", "ring", after=HOUR)
    await engine.do(Commit(again, CancelTimer(ctx, "two")))
    ((row,), gone) = driver.rows
    assert (row.id, row.after, gone) == (one.id, HOUR, [two.id])
    assert ctx.current.timer_due("one") == clock.now() + HOUR
    until = SetTimer(ctx, "one", "ring", until=clock.now() + HOUR)
    await engine.do(Commit(until, CancelTimer(ctx, "two")))
    assert driver.rows == ([], [])  # It is due at that time already.
    await engine.do(Commit(End(ctx)))
    assert driver.rows == ([], [one.id])


async def test_several_states_of_a_commit_have_their_own_timers(
    engine: Engine, driver: Recorder
) -> None:
    first, second = await begun(engine, "t"), await begun(engine, id="b")
    await engine.do(
        Commit(
            Transit(first, "work"),
            SetTimer(second, "t", "work", after=SECOND),
            CancelTimer(first, "t"),
        )
    )
    (row,), gone = driver.rows
    assert (driver.writes[-1].puts[row.put].id, row.to) == ("b", "work")
    assert (row.id, gone) == (timer_id("b", "t"), [timer_id("a", "t")])


async def test_a_timer_that_is_set_again_in_the_working_copy_counts_anew(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ctx = await begun(engine, "t")
    await clock.sleep(60.0)
    await engine.do(SetTimer(ctx, "t", "ring", after=HOUR))
    assert ctx.current == replace(ctx.committed, timers=ctx.current.timers)
    await engine.do(Commit(Put(ctx)))
    assert len(driver.rows[0]) == 1
    assert ctx.current.timer_due("t") == clock.now() + HOUR


async def test_timers_count_for_the_size_and_the_bounds_of_a_commit(
    engine: Engine, driver: Recorder
) -> None:
    contexts = [StateContext(State(f"{n}")) for n in range(20)]
    alarms = [SetTimer(ctx, f"{n}", "ring", after=HOUR) for ctx in contexts for n in range(64)]
    with pytest.raises(InvalidCommandError, match="at most 1000 timers"):
        await engine.do(Commit(*alarms))
    await engine.do(Commit(*alarms[: 15 * 64]))
    assert len(driver.rows[0]) == 15 * 64


async def test_a_hand_made_timer_is_stored_or_refused(engine: Engine, driver: Recorder) -> None:
    made = State("a", timers={"t": Timer("ring", after=HOUR), "u": Timer("ring", AT)})
    await engine.do(Commit(Transit(StateContext(made), "work")))
    assert [(row.name, row.due, row.after) for row in driver.rows[0]] == [
        ("t", None, HOUR),
        ("u", AT, None),
    ]
    bad: list[Any] = [None, "t", {"t": None}, {"t": Timer("ring")}, {"": RELATIVE}, {1: RELATIVE}]
    bad += [{"t": Timer("", AT)}, {"t": Timer("ring", datetime(2030, 1, 1))}]  # noqa: DTZ001
    bad += [{"t": Timer("ring", after=-SECOND)}, {f"{n}": RELATIVE for n in range(65)}]
    for timers in bad:
        ctx = StateContext(State("b"))
        ctx.current = replace(ctx.current, timers=timers)
        with pytest.raises(InvalidInputError, match=r"^state\.timers"):
            await engine.do(Commit(Transit(ctx, "work")))
    assert await engine.head() == 1


async def test_an_ended_state_has_no_timers(engine: Engine, driver: Recorder) -> None:
    ctx = await begun(engine, "t")
    await engine.do(End(ctx))
    assert ctx.current.timers == {}
    ctx.current = replace(ctx.current, timers={"t": RELATIVE, "u": RELATIVE})
    await engine.do(Commit(Put(ctx)))
    assert (ctx.committed.timers, driver.rows) == ({}, ([], [timer_id("a", "t")]))
