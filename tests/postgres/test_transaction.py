"""States that are committed together with rows of the user's own, or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from flowstate import (
    Commit,
    Delay,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import Claim, Drop, DueQuery, Seen, Verdict, Writes
from flowstate.drivers.postgres import PostgresDriver, transaction
from flowstate.testcases.support import encoded, timer
from flowstate.testing.faults import Proxy
from tests.servers import Postgres

Connection = AsyncConnection[Any]
DAY = timedelta(days=1)


@pytest.fixture
def driver(postgres: Postgres, postgres_schema: str) -> PostgresDriver:
    return PostgresDriver(postgres.url(), schema=postgres_schema, timeout=5.0)


@pytest.fixture
async def engine(driver: PostgresDriver) -> AsyncIterator[Engine]:
    flows = FlowRegistry()
    flows.set("ship", lambda _ctx, _engine: Noop())
    async with Engine(driver, flows) as engine:
        yield engine


@pytest.fixture
async def connection(
    postgres: Postgres, postgres_schema: str, engine: Engine
) -> AsyncIterator[Connection]:
    """A connection that the user made, in a way of his own."""
    async with await AsyncConnection.connect(postgres.url(), row_factory=dict_row) as connection:
        await connection.execute(f'CREATE TABLE "{postgres_schema}".orders (id text PRIMARY KEY)')
        await connection.execute(f'SET search_path = "{postgres_schema}"')
        await connection.commit()
        yield connection


async def orders(connection: Connection) -> list[str]:
    found = [row["id"] async for row in await connection.execute("SELECT id FROM orders")]
    await connection.rollback()
    return found


async def log(engine: Engine) -> list[tuple[int, str]]:
    return [(state.rev, state.id) async for state in engine.states()]


async def insert(connection: Connection, id: str) -> None:
    await connection.execute("INSERT INTO orders VALUES (%s)", (id,))


async def test_both_are_committed(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    first, second = StateContext(State("1", labels={"kind": "order"})), StateContext(State("2"))
    async with driver.transaction(connection) as tx:
        await insert(connection, "1")
        await engine.do(Commit(Transit(first, "ship")), tx=tx)
        await engine.do(Commit(Pause(second), Delay(second, "ship", after=DAY)), tx=tx)
        assert first.current.rev == 0

    assert await orders(connection) == ["1"]
    assert await log(engine) == [(1, "1"), (2, "2")]
    assert (first.committed.rev, second.committed.rev) == (1, 2)
    assert second.committed.delayed_until is not None
    await engine.do(Commit(Pause(first)))
    assert first.committed.rev == 3


async def test_a_commit_sees_the_timers_of_those_before(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    """Of one transaction, as of one batch: also the verdicts are in order."""
    timers = (timer("kept", timedelta(0)), timer("dropped", DAY))
    batch = [
        Writes("1", (State("1"),), timers=timers),
        Writes("2", (State("2"),), drops=(Drop("dropped", ""),)),
        Writes("3", claims=(Claim("kept", "me", 60.0),)),
        Writes("4", (State("2", 2),)),
    ]
    verdicts: list[Verdict] = []
    async with driver.transaction(connection) as tx:
        for writes in batch:
            tx.add(encoded(writes), verdicts.append)
    assert [[state.rev for state in each] for each in verdicts if isinstance(each, tuple)] == [
        *([1], [2], [], [3])
    ]
    page = await driver.get_due(DueQuery("delay", everything=True))
    assert [(each.id, each.due > page.now) for each in page.due] == [("kept", True)]


async def test_a_refused_commit_rolls_everything_back(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    stale, other = StateContext(State("1")), StateContext(State("2"))
    await engine.do(Commit(Pause(StateContext(State("1")))))
    with pytest.raises(RevisionMismatchError) as refused:  # noqa: PT012 - the end of the block raises
        async with driver.transaction(connection) as tx:
            await insert(connection, "1")
            await engine.do(Commit(Pause(other)), tx=tx)
            await engine.do(Commit(Pause(stale)), tx=tx)

    assert refused.value.ids == ("1",)
    assert await orders(connection) == []
    assert await log(engine) == [(1, "1")]
    assert (stale.committed.rev, other.committed.rev) == (0, 0)


async def test_what_the_block_raises_rolls_everything_back(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    ctx = StateContext(State("1"))
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block itself
        async with driver.transaction(connection) as tx:
            await engine.do(Commit(Pause(ctx)), tx=tx)
            raise ZeroDivisionError

    assert await log(engine) == []
    assert ctx.committed.rev == 0


async def test_what_the_database_refuses_rolls_everything_back(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):  # noqa: PT012 - the block itself
        async with driver.transaction(connection) as tx:
            await engine.do(Commit(Pause(StateContext(State("1")))), tx=tx)
            await insert(connection, "1")
            await insert(connection, "1")

    assert await log(engine) == []


async def test_an_open_block_holds_up_no_commit(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    async with driver.transaction(connection) as tx:
        await engine.do(Commit(Pause(StateContext(State("late")))), tx=tx)
        await insert(connection, "late")
        await engine.do(Commit(Pause(StateContext(State("soon")))))

    assert await log(engine) == [(1, "soon"), (2, "late")]


async def test_watchers_see_it(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    async with engine.watch() as states:
        reading = asyncio.ensure_future(anext(states))
        async with driver.transaction(connection) as tx:
            await engine.do(Commit(Pause(StateContext(State("1")))), tx=tx)
        async with asyncio.timeout(5):
            assert (await reading).id == "1"


async def test_what_cannot_be_part_of_it(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    ctx = StateContext(State("1"))
    twice = StateContext(State("2"))
    async with driver.transaction(connection) as tx:
        with pytest.raises(InvalidCommandError, match="only Commit"):
            await engine.do(Pause(ctx), tx=tx)
        await engine.do(Commit(Pause(twice)), tx=tx)
        with pytest.raises(InvalidCommandError, match=r"ctx.*already"):
            await engine.do(Commit(Transit(twice, "ship")), tx=tx)
        with pytest.raises(InvalidInputError, match=r"connection.*already"):
            async with driver.transaction(connection):
                pass
    with pytest.raises(InvalidInputError, match=r"tx.*over"):
        await engine.do(Commit(Pause(ctx)), tx=tx)
    assert await log(engine) == [(1, "2")]


async def test_a_transaction_of_another_store(
    engine: Engine, postgres: Postgres, postgres_schema: str, connection: Connection
) -> None:
    async with PostgresDriver(postgres.url(), schema=f"{postgres_schema}_2") as other:
        async with other.transaction(connection) as tx:
            with pytest.raises(InvalidInputError, match=r"tx.*this store"):
                await engine.do(Commit(Pause(StateContext(State("1")))), tx=tx)
        await connection.execute(f'DROP SCHEMA "{postgres_schema}_2" CASCADE')
        await connection.commit()


@pytest.mark.parametrize(
    ("cut_at", "committed"), [(b"COMMIT", True), (b".commit(", False)], ids=["commit", "states"]
)
async def test_a_connection_that_breaks(
    engine: Engine, driver: PostgresDriver, postgres: Postgres, cut_at: bytes, *, committed: bool
) -> None:
    ctx = StateContext(State("1"))
    async with through_proxy(postgres) as (proxy, connection):
        proxy.cut_before_reply(cut_at)
        with contextlib.nullcontext() if committed else pytest.raises(psycopg.OperationalError):
            async with driver.transaction(connection) as tx:
                await engine.do(Commit(Pause(ctx)), tx=tx)

    assert await log(engine) == ([(1, "1")] if committed else [])
    assert ctx.committed.rev == (1 if committed else 0)


@contextlib.asynccontextmanager
async def through_proxy(postgres: Postgres) -> AsyncIterator[tuple[Proxy, Connection]]:
    info = conninfo_to_dict(postgres.url())
    async with Proxy(str(info["host"]), int(info["port"] or 5432)) as proxy:
        url = make_conninfo(postgres.url(), host=proxy.host, port=proxy.port)
        async with await AsyncConnection.connect(url) as connection:
            yield proxy, connection


async def test_contexts_tell_the_truth_whenever_it_is_cancelled(
    engine: Engine, driver: PostgresDriver, postgres: Postgres
) -> None:
    contexts = [StateContext(State(f"{number}")) for number in range(24)]

    async def pause(connection: Connection, ctx: StateContext) -> None:
        async with driver.transaction(connection) as tx:
            await engine.do(Commit(Pause(ctx)), tx=tx)

    for number, ctx in enumerate(contexts):
        async with through_proxy(postgres) as (proxy, connection):
            proxy.delay = 0.01
            pausing = asyncio.ensure_future(pause(connection, ctx))
            await asyncio.wait([pausing], timeout=number * 0.006)  # At another point each time.
            pausing.cancel()
            await asyncio.wait([pausing])

    committed = {id for _, id in await log(engine)}
    assert {ctx.committed.id for ctx in contexts if ctx.committed.rev} == committed
    assert 0 < len(committed) < len(contexts)


async def test_watches_hear_of_what_happened_although_it_was_cancelled(
    engine: Engine, driver: PostgresDriver, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = StateContext(State("1"))

    async def pause() -> None:
        async with driver.transaction(connection) as tx:
            await engine.do(Commit(Pause(ctx)), tx=tx)

    pausing, judged = asyncio.ensure_future(pause()), transaction._judged

    async def judged_and_cancelled(*arguments: Any) -> Any:
        verdicts = await judged(*arguments)
        asyncio.get_running_loop().call_soon(pausing.cancel)  # While COMMIT is on its way.
        return verdicts

    monkeypatch.setattr(transaction, "_judged", judged_and_cancelled)
    with pytest.raises(asyncio.CancelledError):
        await pausing

    assert ctx.committed.rev == 1
    assert (await driver.changed(Seen())).head == 1


async def test_a_rollback_on_purpose(
    engine: Engine, driver: PostgresDriver, connection: Connection
) -> None:
    ctx = StateContext(State("1"))
    async with driver.transaction(connection) as tx:
        await engine.do(Commit(Pause(ctx)), tx=tx)
        raise psycopg.Rollback

    assert await log(engine) == []
    assert ctx.committed.rev == 0


async def test_a_connection_to_another_database(
    engine: Engine, driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    name = f"{postgres_schema}_other"
    async with await AsyncConnection.connect(postgres.url(), autocommit=True) as admin:
        await admin.execute(f'CREATE DATABASE "{name}"')
        url = make_conninfo(postgres.url(), dbname=name)
        async with PostgresDriver(url, schema=postgres_schema):
            pass
        async with await AsyncConnection.connect(url) as elsewhere:
            with pytest.raises(InvalidInputError, match=r"connection.*another store"):
                async with driver.transaction(elsewhere) as tx:
                    await engine.do(Commit(Pause(StateContext(State("1")))), tx=tx)
        await admin.execute(f'DROP DATABASE "{name}"')

    assert await log(engine) == []
