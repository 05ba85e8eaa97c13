"""No statement of the driver reads a whole table, whatever is asked; compaction alone may."""

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import Data, State, Status, Transition
from flowstate.data import DataRef, checksum_of
from flowstate.driver import Claim, Drop, DueQuery, Heartbeat, NewDelay, StateQuery, Writes
from flowstate.drivers.kit.base import News
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import timer
from tests.sqlite.support import commit, commit_one, file_of, put

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)
DATA = Data(b"blob")
CHECKSUM = checksum_of(DATA)
ONE = FrozenDict({"kind": "test"})
LABELS = FrozenDict({"kind": "test", "number": "3"})
# How a batch begins; its two inner queries stop at the first row that they meet.
BEGINNING = (
    "SELECT max(rev), (SELECT committed_at FROM log ORDER BY rev DESC LIMIT 1),"
    " EXISTS (SELECT 1 FROM delay), NULL FROM log"
)
VALUE = re.compile(r"'[^']*'|(?<= )[2-9]\d*|(?<= )1\d+")
TABLES = {
    "log",
    "label",
    "latest",
    "latest_label",
    "data",
    "data_reference",
    "delay",
    "delay_reference",
}


async def write_everything(driver: SQLiteDriver) -> None:
    ref = FrozenDict({"blob": DataRef(1, CHECKSUM)})
    await commit_one(driver, Writes("data", data=(Data(DATA.blob, checksum=CHECKSUM),)))
    for i in range(20):
        state = State(f"{i}", 0, LABELS, transition=Transition("next"), data=ref)
        delay = NewDelay(
            state, "next", EMPTY, None, HOUR, commit=True, body="", put=0, references=(CHECKSUM,)
        )
        (first,) = await commit_one(
            driver, Writes(f"{i}", (state,), delays=(delay,), needs=(CHECKSUM,))
        )
        if i % 2:
            alone = replace(delay, state=first, put=None)
            checks = ((first.id, first.rev),)
            await commit_one(driver, Writes(f"{i}.delay", checks=checks, delays=(alone,)))
            await commit(driver, put(f"{i}.1", first.id, first.rev, labels=LABELS), put("0", "0"))
    await commit(driver, Writes("claim", claims=(Claim("0.0", "me", 60.0),)))
    await commit(driver, Writes("drop", drops=(Drop("0.0", "me"),)))
    puts = tuple(State(id, labels=LABELS, status=Status.PAUSED) for id in "abc")
    alarms = (timer("t", HOUR), timer("u", -HOUR, put=1))
    forgotten = await commit_one(driver, Writes("timers", puts, timers=alarms))
    last = replace(forgotten[0], status=Status.ENDED)
    await commit_one(driver, Writes("forget", (last,), forgets=(0,), drops=(Drop("t", ""),)))
    latest = (await driver.get_states(StateQuery(latest_only=True))).states
    for seconds in (60.0, None):
        beats = [Heartbeat(state.id, state.rev, seconds, "note") for state in latest]
        assert all(await driver.beat(beats))


def queries() -> Iterator[StateQuery]:
    """Return every combination of the filters."""
    several = (LABELS, FrozenDict({"kind": "other"}))
    for labels in ((), (ONE,), (LABELS,), several):
        for status in (None, Status.ACTIVE):
            for latest_only in (False, True):
                for since_latest in (False, True):
                    query = StateQuery(
                        labels, 3, since_latest, status=status, latest_only=latest_only
                    )
                    for id in (None, "3"):
                        yield replace(query, id=id)
                        timed = replace(query, since_time=NOW, committed_before=NOW + HOUR)
                        yield replace(timed, id=id)


async def read_everything(driver: SQLiteDriver) -> None:
    for query in queries():
        await driver.get_states(query)
    for due in (
        DueQuery("delay"),
        DueQuery("delay", everything=True),
        DueQuery("delay", until=NOW + HOUR, after=(NOW, "3.0")),
        DueQuery("delay", ("next", "gone"), others=True),
    ):
        await driver.get_due(due)
        await driver.get_due(replace(due, kind="stall"))
        await driver.get_due(replace(due, kind="idle"))
    for labels, status in product(((), (ONE,), (LABELS,)), (None, Status.PAUSED)):
        assert await driver.count(StateQuery(labels, status=status))
    await driver.get_liveness(["3"])
    await driver.get_state("3")
    await driver.get_state("3", 4)
    await driver.get_data(CHECKSUM)
    file = file_of(driver)
    file.look(None, News())


@pytest.fixture
async def statements(tmp_path: Path) -> dict[str, str]:
    """Return each kind of statement that the driver makes, with an example."""
    found: dict[str, str] = {}

    def note(statement: str) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            found.setdefault(VALUE.sub("?", statement), statement)

    async with SQLiteDriver(tmp_path / "store.db", readers=1) as driver:
        for connection in file_of(driver)._connections:
            connection.set_trace_callback(note)
        await write_everything(driver)
        await read_everything(driver)
    return found


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """Return what SQLite would do for a statement, step by step."""
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        yield lambda statement: [
            step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]


def reads_all(step: str) -> bool:
    words = step.split()
    return words[0] == "SCAN" and words[1] in TABLES


def test_no_statement_reads_a_whole_table(
    statements: dict[str, str], plan: Callable[[str], list[str]]
) -> None:
    assert len(statements) > 40
    bad = [
        (step, statement)
        for name, statement in statements.items()
        for step in plan(statement)
        if not name.startswith(BEGINNING) and (reads_all(step) or "TEMP B-TREE" in step)
    ]
    assert bad == []


def test_counts_read_an_index_alone(
    statements: dict[str, str], plan: Callable[[str], list[str]]
) -> None:
    counts = [each for each in statements.values() if "count(*) FROM (SELECT rev" in each]
    assert len(counts) >= 3
    for step in (step for each in counts for step in plan(each)):
        if step.startswith("SEARCH"):
            assert "USING COVERING INDEX" in step or "USING PRIMARY KEY (key=?" in step


def test_a_batch_begins_at_the_ends_of_tables(
    statements: dict[str, str], plan: Callable[[str], list[str]]
) -> None:
    beginnings = [each for name, each in statements.items() if name.startswith(BEGINNING)]
    assert len(beginnings) == 2  # For one state, and for several.
    for steps in map(plan, beginnings):
        assert "SEARCH log" in steps
        assert len([step for step in steps if reads_all(step)]) == 2


def test_a_plan_that_reads_a_whole_table_would_be_noticed(
    statements: dict[str, str], plan: Callable[[str], list[str]]
) -> None:
    for statement in ("SELECT * FROM log WHERE token = ''", "DELETE FROM latest WHERE rev = 1"):
        assert [step for step in plan(statement) if reads_all(step)]
