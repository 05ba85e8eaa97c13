"""Tables that are emptied again and again: their statistics say that they are almost empty."""

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import Commit, End, Engine, FlowRegistry, Forget, State, StateContext
from flowstate.driver import Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.postgres.batch import encoded
from flowstate.recovery import Retention
from flowstate.state import Transition
from flowstate.testcases.support import encoded as with_bodies
from tests.postgres.test_plans import Store
from tests.servers import Postgres

STATES = 4_000
BATCH = 100
NOTHING = timedelta(0)


@pytest.fixture
async def engine(postgres: Postgres, postgres_schema: str) -> AsyncIterator[Engine]:
    driver = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with Engine(driver, FlowRegistry()) as engine:
        yield engine


def states(generation: int) -> list[State]:
    return [State(f"{generation}-{n}", labels={"order": f"{n}"}) for n in range(STATES)]


async def end(engine: Engine, found: list[State]) -> list[State]:
    """Let states begin and end; return what the store has."""
    contexts = [StateContext(state) for state in found]
    for start in range(0, STATES, BATCH):
        await engine.do(Commit(*map(End, contexts[start : start + BATCH])))
    return [ctx.committed for ctx in contexts]


def vacuum(url: str, schema: str) -> None:
    """Do what the server does by itself, sooner or later."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = %s"
        for (table,) in connection.execute(query, [schema]).fetchall():
            connection.execute(SQL("VACUUM {}").format(Identifier(schema, table)))


async def test_forgetting_and_compaction_look_at_little(
    engine: Engine, postgres: Postgres, postgres_schema: str
) -> None:
    await end(engine, states(0))
    await Retention(engine, NOTHING, history=NOTHING).run_once()
    await Retention(engine, NOTHING, history=NOTHING).run_once()
    vacuum(postgres.url(), postgres_schema)
    ended = await end(engine, states(1))
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        store = Store(connection, postgres_schema)
        forgotten = Transition("", cause="forget")
        forgetting = [
            State(state.id, state.rev, labels=state.labels, transition=forgotten)
            for state in ended[:BATCH]
        ]
        writes = with_bodies(Writes("token", tuple(forgetting), forgets=tuple(range(BATCH))))
        parameters = encoded([writes], 1.0)
        work = store.work(store.queries.commit_of(parameters).decode(), parameters)
        assert work.scanned == set()
        assert work.blocks < 1_000 + 60 * BATCH

    for start in range(0, STATES, BATCH):
        contexts = [StateContext(state) for state in ended[start : start + BATCH]]
        await engine.do(Commit(*map(Forget, contexts)))
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        store = Store(connection, postgres_schema)
        statement = f"SELECT * FROM {store.schema}.compact_some(%s, %s, %s)"
        work = store.work(statement, (0, await engine.head(), 1_000))
        assert work.scanned == set()
        assert work.blocks < 60 * 1_000
