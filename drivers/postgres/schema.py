"""The tables and functions of a store, and how they come into a database."""

from importlib import resources

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from flowstate.drivers.postgres.links import cursor_of
from flowstate.errors import InvalidInputError, StoreCorruptError, StoreVersionError

__all__ = ["SCHEMA_VERSION", "check", "is_current", "migrate", "migration_sql", "quoted"]

MIGRATIONS = ("0001_initial.sql", "0002_due_by_flow.sql", "0003_idle_and_forgotten.sql")
FUNCTIONS = ("functions.sql", "commit.sql")  # As they are after the last migration.
SCHEMA_VERSION = len(MIGRATIONS)
NOT_IN_NAMES = ("{", "}", "%", "$$")  # They mean something where a name is put into SQL.
LONGEST_NAME = 63  # Postgres cuts longer identifiers off.
LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(1718382455, pg_catalog.hashtext(%s))"

Connection = AsyncConnection[TupleRow]


def quoted(schema: str) -> str:
    """Return the name of a schema as it stands in SQL.

    Raises:
        InvalidInputError: it cannot be a name.
    """
    if not isinstance(schema, str) or not schema or "\0" in schema:
        raise InvalidInputError("schema", "must be the name of a schema")
    if len(schema.encode(errors="replace")) > LONGEST_NAME:
        raise InvalidInputError("schema", f"must be at most {LONGEST_NAME} bytes long")
    if any(mark in schema for mark in NOT_IN_NAMES) or not schema.isprintable():
        raise InvalidInputError("schema", f"must be printable, without {' '.join(NOT_IN_NAMES)}")
    return sql.Identifier(schema).as_string()


def migration_sql(schema: str = "flowstate", *, since: int = 0) -> str:
    """Return the SQL that brings a database from schema version ``since`` up to this library's.

    For people who apply it themselves: in one transaction, as the user who is to own the tables.

    Raises:
        InvalidInputError: ``schema`` cannot be a name, or there is no version ``since``.
    """
    name = quoted(schema)
    if not isinstance(since, int) or not 0 <= since <= SCHEMA_VERSION:
        raise InvalidInputError("since", f"must be a version from 0 to {SCHEMA_VERSION}")
    if since == SCHEMA_VERSION:
        return ""
    folder = resources.files("flowstate.drivers.postgres").joinpath("sql")
    scripts = [folder.joinpath(file).read_text() for file in (*MIGRATIONS[since:], *FUNCTIONS)]
    first = [_creation(name)] if since == 0 else []
    log = sql.Literal(f"{name}.log").as_string()
    scripts = [script.replace("'{schema}.log'", log) for script in scripts]
    return "\n".join(first + [script.replace("{schema}", name) for script in scripts])


def _creation(name: str) -> str:
    # IF NOT EXISTS wants the right to create schemas even where there is one.
    condition = f"to_regnamespace({sql.Literal(name).as_string()}) IS NULL"
    return f"DO $$ BEGIN IF {condition} THEN CREATE SCHEMA {name}; END IF; END $$;\n"


async def migrate(connection: Connection, schema: str = "flowstate") -> None:
    """Make a schema a store, or bring an older one up to date; do nothing if it is.

    Safe when several processes do it at once. Runs in a transaction of its own.

    Raises:
        StoreVersionError: the schema is from a newer library.
        StoreCorruptError: the schema is something else.
        InvalidInputError: ``schema`` cannot be a name.
        psycopg.Error: the user may not create what is missing, say.
    """
    if await _version(connection, schema) == SCHEMA_VERSION:
        return
    async with connection.transaction():
        await cursor_of(connection).execute(LOCK, (schema,))
        version = await _version(connection, schema)
        if version < SCHEMA_VERSION:
            statements = migration_sql(schema, since=version).encode()
            await cursor_of(connection).execute(statements, prepare=False)


async def is_current(connection: Connection, schema: str) -> bool:
    """Return whether a schema is a store of this library's version.

    Raises:
        StoreVersionError: the schema is from a newer library.
        StoreCorruptError: the schema is something else.
    """
    return await _version(connection, schema) == SCHEMA_VERSION


async def check(connection: Connection, schema: str) -> str:
    """Return the id of a store whose schema is up to date.

    Raises:
        StoreVersionError: it is not.
    """
    version = await _version(connection, schema)
    if version < SCHEMA_VERSION:
        raise StoreVersionError(
            f"Postgres schema {schema}: version {version} is older than {SCHEMA_VERSION}; "
            "apply what migration_sql() returns, or open the driver with migrate=True"
        )
    ((store_id,),) = await _rows(connection, f"SELECT store_id FROM {quoted(schema)}.meta")
    return str(store_id)


async def _rows(connection: Connection, statement: str, *parameters: str) -> list[TupleRow]:
    return await (await cursor_of(connection).execute(statement.encode(), parameters)).fetchall()


async def _version(connection: Connection, schema: str) -> int:
    """Return the version of a schema; 0 if there is none yet."""
    # Not to_regclass: it may answer from a cache that the waiting for a lock has made stale.
    tables = await _rows(
        connection,
        "SELECT relname::text FROM pg_catalog.pg_class AS c"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname IN ('log', 'meta')",
        schema,
    )
    if not tables:
        return 0
    if len(tables) == 1:
        raise StoreCorruptError(f"Postgres schema {schema}: this is not a flowstate store")
    rows = await _rows(connection, f"SELECT version FROM {quoted(schema)}.meta")
    version = rows[0][0] if rows else None
    if not isinstance(version, int):
        raise StoreCorruptError(f"Postgres schema {schema}: {version!r} is no version")
    if version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"Postgres schema {schema}: version {version} is newer than {SCHEMA_VERSION}, "
            "the highest that this library knows; upgrade flowstate"
        )
    return version
