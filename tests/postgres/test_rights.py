"""What a user needs who works with a store that another user has made."""

import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from flowstate import Data, FlowstateError, State, Status, StoreReadOnlyError
from flowstate.data import DataRef, checksum_of
from flowstate.driver import Claim, Drop, DueQuery, Heartbeat, NewDelay, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver, migration_sql
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import timer
from tests.postgres.steps import commit
from tests.servers import Postgres

GRANTS = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
"""
MINIMAL = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, UPDATE ON {schema}.meta TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.log TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.latest TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.label TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.latest_label TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.data TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.data_reference TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.delay TO {role};
"""
READING = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
"""
DATA = Data(b"blob")
CHECKSUM = checksum_of(DATA)


class Role:
    """A user without any rights, and a new store."""

    def __init__(self, postgres: Postgres, schema: str) -> None:
        self.schema = schema
        self.name = f"{schema}_user"
        self.url = make_conninfo(postgres.url(), options=f"-c role={self.name}")
        self.admin = psycopg.connect(postgres.url(), autocommit=True)

    def run(self, statements: str) -> None:
        names = {"schema": Identifier(self.schema), "role": Identifier(self.name)}
        for statement in filter(str.strip, statements.split(";")):
            self.admin.execute(SQL(statement).format(**names))


@pytest.fixture
def role(postgres: Postgres, postgres_schema: str) -> Iterator[Role]:
    role = Role(postgres, postgres_schema)
    with role.admin:
        role.admin.execute(migration_sql(role.schema).encode())
        role.run("CREATE ROLE {role}; GRANT {role} TO CURRENT_USER")
        yield role
        role.run("DROP OWNED BY {role}; DROP ROLE {role}")


async def read_everything(driver: PostgresDriver) -> None:
    labels = (FrozenDict({"kind": "test"}),)
    await driver.get_states(StateQuery())
    await driver.get_states(StateQuery(labels))
    await driver.get_states(StateQuery(labels, latest_only=True))
    await driver.get_state("a")
    await driver.get_data(CHECKSUM)
    await driver.get_due(DueQuery("delay", everything=True))
    await driver.get_liveness(["a"])
    await driver.get_due(DueQuery("stall"))
    await driver.get_due(DueQuery("idle"))
    await driver.get_states(StateQuery(id="a"))
    await driver.count(StateQuery(labels))


async def write_everything(driver: PostgresDriver) -> None:
    reference = FrozenDict({"blob": DataRef(1, CHECKSUM)})
    data = (Data(DATA.blob, checksum=CHECKSUM),)
    id, rev = secrets.token_hex(), 0
    for _ in range(2):
        state = State(id, rev, FrozenDict({"kind": "test"}), data=reference)
        after = timedelta(0)
        delay = NewDelay(state, "next", EMPTY, None, after, commit=True, body="", put=0)
        writes = Writes(secrets.token_hex(), (state,), data=data, delays=(delay,))
        rev = (await commit_one(driver, writes))[0].rev
    (delayed, *_) = (await driver.get_due(DueQuery("delay", everything=True))).due
    claim, drop = Claim(delayed.id, "me", 60.0), Drop(delayed.id, "me")
    token, unused = secrets.token_hex(), Data(b"unused", checksum=secrets.token_hex(32))
    await commit_one(driver, Writes(token, data=(unused,), claims=(claim,), drops=(drop,)))
    assert await driver.beat([Heartbeat(id, rev, 60.0, "")]) == [True]
    brief = Writes(
        secrets.token_hex(),
        (State(secrets.token_hex(), status=Status.ENDED), State(id, rev)),
        timers=(timer(secrets.token_hex(), timedelta(0), put=1),),
        forgets=(0,),
    )
    (_, last) = await commit_one(driver, brief)
    await driver.compact(last.rev)


async def commit_one(driver: PostgresDriver, writes: Writes) -> tuple[State, ...]:
    (verdict,) = await commit(driver, writes)
    if not isinstance(verdict, tuple):
        raise verdict
    return verdict


async def use(role: Role, **options: Any) -> None:
    async with PostgresDriver(role.url, schema=role.schema, **options) as driver:
        await write_everything(driver)
        await read_everything(driver)


@pytest.mark.parametrize("grants", [GRANTS, MINIMAL])
@pytest.mark.parametrize("migrate", [False, True])
async def test_these_rights_are_enough(role: Role, grants: str, migrate: bool) -> None:
    if grants == GRANTS:
        role.run("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC")
    role.run(grants)
    await use(role, migrate=migrate)


async def test_each_right_is_needed(role: Role) -> None:
    role.run(MINIMAL)
    await use(role)
    refusals: dict[str, str] = {}
    for grant in filter(str.strip, MINIMAL.split(";")):
        rights, place = grant.split(" ON ")
        for right in rights.replace("GRANT", "").split(","):
            role.run(f"REVOKE {right} ON {place.replace(' TO ', ' FROM ')}")
            try:
                await use(role)
            except FlowstateError as error:
                refusals[right + place] = str(error)
            else:
                refusals[right + place] = "it was not needed"
            role.run(grant)
    assert [right for right, text in refusals.items() if "permission denied" not in text] == []


async def test_who_may_only_read_reads(role: Role) -> None:
    role.run(READING)
    async with PostgresDriver(role.url, schema=role.schema) as driver:
        await read_everything(driver)
        with pytest.raises(StoreReadOnlyError):
            await write_everything(driver)


async def test_who_may_nothing_is_told(role: Role) -> None:
    with pytest.raises(StoreReadOnlyError):
        await use(role)
