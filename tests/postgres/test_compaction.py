"""Compaction stops no commit, and takes nothing away that is still referred to."""

import asyncio
import itertools
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest

from flowstate import CompactedError, Data, DataNotFoundError, State, Status
from flowstate.data import DataRef, checksum_of
from flowstate.driver import StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.ground.frozen import FrozenDict
from tests.postgres.steps import commit, commit_on, head_of
from tests.servers import Postgres

pytestmark = pytest.mark.slow

REVISIONS = 60_000
STATES = 1_000
FILL = f"""
INSERT INTO log SELECT rev, 'state-' || rev % {STATES}, greatest(rev - {STATES}, 0), 'ended',
    clock_timestamp(), NULL, 'token-' || rev, json_build_object(
        'v', 1, 'id', 'state-' || rev % {STATES}, 'labels', json_build_object('kind', 'test'))
    FROM generate_series(1, {REVISIONS}) AS rev;
INSERT INTO label SELECT 'kind', 'test', rev FROM log;
INSERT INTO latest (id, rev, status, labelled, delayed)
    SELECT id, rev, status, true, false FROM log WHERE rev > {REVISIONS - STATES};
INSERT INTO latest_label SELECT label.*, 'ended' FROM label JOIN latest USING (rev);
INSERT INTO data SELECT 'sum-' || rev, rev, '{{}}', 'blob' FROM log;
INSERT INTO data_reference SELECT rev, 'sum-' || rev FROM log;
"""
BLOBS = [Data(f"blob {number}".encode()) for number in range(4)]
SECONDS = 3.0
DEADLOCKS = "pg_stat_database, generate_series(1, deadlocks) WHERE datname = current_database()"
WITHOUT_REVISION = "latest WHERE NOT EXISTS (SELECT FROM log WHERE log.rev = abs(latest.rev))"
DANGLING = "data_reference LEFT JOIN data USING (checksum) WHERE data.checksum IS NULL"


@pytest.fixture
async def driver(postgres: Postgres, postgres_schema: str) -> PostgresDriver:
    driver = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with driver:
        pass
    return driver


def count(postgres: Postgres, schema: str, source: str) -> int:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}")
        (number,) = connection.execute(f"SELECT count(*) FROM {source}").fetchone() or (0,)
    return int(number)


def fill(postgres: Postgres, schema: str) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}")
        connection.execute(FILL)


async def commit_until(driver: PostgresDriver, done: asyncio.Event) -> list[float]:
    """Commit one after the other, and return how long each took."""
    seconds = []
    for number in itertools.count():
        state = State(f"other-{number}", labels=FrozenDict({"kind": "test"}))
        started = time.monotonic()
        (verdict,) = await commit(driver, Writes(secrets.token_hex(), (state,)))
        seconds.append(time.monotonic() - started)
        assert isinstance(verdict, tuple)
        if done.is_set():
            break
    return seconds


async def test_commits_go_on_while_much_is_removed(
    driver: PostgresDriver,
    postgres: Postgres,
    postgres_schema: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    fill(postgres, postgres_schema)
    other = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with driver, other:
        done = asyncio.Event()
        committing = asyncio.create_task(commit_until(other, done))
        started = time.monotonic()
        removed = await driver.compact(REVISIONS + 1)
        took = time.monotonic() - started
        done.set()
        longest = max(await committing)
        page = await driver.get_states(StateQuery(limit=1_000))
        with pytest.raises(CompactedError):
            await driver.get_states(StateQuery(gaps_below=0))
        again = await driver.compact(REVISIONS + 1)
    record_testsuite_property("postgres_compaction_s", round(took, 2))
    record_testsuite_property("postgres_longest_commit_ms", round(longest * 1e3, 1))
    assert removed == REVISIONS - STATES
    assert again == 0
    assert page.floor == REVISIONS + 1
    assert [state.rev for state in page.states] == list(
        range(REVISIONS - STATES + 1, REVISIONS + 1)
    )
    assert count(postgres, postgres_schema, f"label WHERE rev <= {REVISIONS}") == STATES
    assert count(postgres, postgres_schema, "data") == STATES
    assert count(postgres, postgres_schema, "data_reference") == STATES
    assert longest < min(1.0, took / 2)


async def test_nothing_is_removed_that_a_commit_needs(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    """Blobs are stored, referred to and given up, in two drivers, while two others compact."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + SECONDS

    async def refer(driver: PostgresDriver, chance: random.Random, id: str) -> None:
        rev = 0
        while time.monotonic() < end:
            blob = chance.choice(BLOBS)
            checksum = checksum_of(blob)
            refs = FrozenDict({"blob": DataRef(1, checksum)} if chance.random() < 0.5 else {})
            data = (Data(blob.blob, checksum=checksum),) if chance.random() < 0.2 else ()
            needs = (checksum,) if refs and not data else ()
            state = State(id, rev, data=refs)
            writes = Writes(secrets.token_hex(), (state,), data=data, needs=needs)
            (verdict,) = await commit(driver, writes)
            if isinstance(verdict, tuple):
                rev = verdict[0].rev
                outcomes["needed" if needs else "committed"] += 1
            else:
                assert isinstance(verdict, DataNotFoundError)
                outcomes["missing"] += 1

    async def compact(driver: PostgresDriver) -> None:
        while time.monotonic() < end:
            outcomes["removed"] += await driver.compact(await head_of(driver))

    others = [PostgresDriver(postgres.url(), schema=postgres_schema) for _ in range(3)]
    async with driver, others[0], others[1], others[2], asyncio.TaskGroup() as group:
        for number in range(8):
            chance = random.Random(number)
            group.create_task(refer((driver, others[0])[number % 2], chance, f"state-{number}"))
        for compacting in others[1:]:
            group.create_task(compact(compacting))
    assert count(postgres, postgres_schema, DANGLING) == 0
    without_row = (
        "log, json_each(body -> 'data') AS ref WHERE NOT EXISTS (SELECT FROM data_reference AS d"
        " WHERE d.rev = log.rev AND d.checksum = ref.value ->> 'checksum')"
    )
    assert count(postgres, postgres_schema, without_row) == 0
    assert min(outcomes[kind] for kind in ("needed", "committed", "missing", "removed")) > 0


async def test_a_commit_that_is_under_way_keeps_what_it_needs(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    """It has seen the blob and is not visible yet; the removal comes right then."""
    checksum = checksum_of(BLOBS[0])
    refs = FrozenDict({"blob": DataRef(1, checksum)})
    needs = Writes("needs", (State("a", data=refs),), needs=(checksum,))
    waiting = f"pg_locks WHERE NOT granted AND objid = '{postgres_schema}.log'::regclass::oid"
    async with driver, await psycopg.AsyncConnection.connect(postgres.url()) as connection:
        await commit(driver, Writes("blob", data=(Data(BLOBS[0].blob, checksum=checksum),)))
        await commit(driver, Writes("other", (State("b"),)))
        await commit_on(connection, postgres_schema, needs)
        removal = asyncio.create_task(driver.compact(2))
        while not removal.done() and not count(postgres, postgres_schema, waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # reason: the server does not tell who waits
        await connection.commit()
        await removal
    assert count(postgres, postgres_schema, "data_reference") == 1
    assert count(postgres, postgres_schema, DANGLING) == 0


def _ended(id: str, rev: int = 0) -> State:
    return State(id, rev, labels=FrozenDict({"kind": "test"}), status=Status.ENDED)


async def test_nothing_of_a_forgotten_state_is_left(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    ids = [f"state-{n}" for n in range(2_500)]
    tables = ("log", "latest", "label", "latest_label")
    async with driver:
        await commit(driver, Writes("1", tuple(map(_ended, ids))))
        states = tuple(_ended(id, rev) for rev, id in enumerate(ids, 1))
        await commit(driver, Writes("2", states, forgets=tuple(range(len(ids)))))
        assert [count(postgres, postgres_schema, table) for table in tables] == [
            *(2 * len(ids), len(ids), 2 * len(ids), 0)
        ]
        await commit(driver, Writes("3", (_ended("last"), _ended(ids[0]))))
        assert await driver.compact(10_000) == 2 * len(ids)
    assert [count(postgres, postgres_schema, table) for table in tables] == [2, 2, 2, 2]


async def test_states_begin_again_while_they_are_removed(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    """Commits take the rows of forgotten states in all orders, and compaction removes them."""
    deadlocks = count(postgres, postgres_schema, DEADLOCKS)
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + SECONDS

    def goes_on() -> bool:
        return time.monotonic() < end or min(outcomes[kind] for kind in ("again", "removed")) == 0

    async def begin(driver: PostgresDriver, chance: random.Random) -> None:
        ids = [f"state-{chance.random()}" for _ in range(200)]
        while goes_on():
            states = tuple(_ended(id) for id in chance.sample(ids, len(ids)))
            (verdict,) = await commit(driver, Writes(secrets.token_hex(), states))
            assert isinstance(verdict, tuple)
            outcomes["again"] += 1
            every = tuple(range(len(verdict)))
            await commit(driver, Writes(secrets.token_hex(), verdict, forgets=every))

    async def compact(driver: PostgresDriver) -> None:
        while goes_on():
            outcomes["removed"] += await driver.compact(await head_of(driver))

    others = [PostgresDriver(postgres.url(), schema=postgres_schema) for _ in range(3)]
    async with driver, others[0], others[1], others[2], asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(begin((driver, others[0])[number % 2], random.Random(number)))
        for compacting in others[1:]:
            group.create_task(compact(compacting))
    async with driver:
        await commit(driver, Writes("last", (_ended("last"),)))
        await driver.compact(await head_of(driver))
        assert await driver.count(StateQuery()) == 1
    assert count(postgres, postgres_schema, WITHOUT_REVISION) == 0
    assert count(postgres, postgres_schema, "latest WHERE rev < 0") == 0
    assert count(postgres, postgres_schema, DEADLOCKS) == deadlocks
