"""The tables and functions of a store, and how they come into a database."""

from importlib import resources

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from flowstate.drivers.postgres.connections import cursor_of
from flowstate.errors import InvalidInputError, StoreCorruptError, StoreVersionError

__all__ = ["SCHEMA_VERSION", "check", "migrate", "migration_sql", "quoted"]

MIGRATIONS = ("0001_initial.sql",)
SCHEMA_VERSION = len(MIGRATIONS)
LONGEST_NAME = 63  # Postgres cuts longer identifiers off.
LOCK = "SELECT pg_advisory_xact_lock(1718382455, hashtext(%s))"

Connection = AsyncConnection[TupleRow]


def quoted(schema: str) -> str:
    """Return the name of a schema as it stands in SQL.

    Raises:
        InvalidInputError: it cannot be a name.
    """
    if not isinstance(schema, str) or not schema or "\0" in schema:
        raise InvalidInputError("schema", "must be the name of a schema")
    if len(schema.encode()) > LONGEST_NAME:
        raise InvalidInputError("schema", f"must be at most {LONGEST_NAME} bytes long")
    if "{" in schema or "}" in schema:
        raise InvalidInputError("schema", "must not have braces")
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
    folder = resources.files("flowstate.drivers.postgres").joinpath("sql")
    scripts = [folder.joinpath(file).read_text() for file in MIGRATIONS[since:]]
    first = [f"CREATE SCHEMA IF NOT EXISTS {name};\n"] if since == 0 else []
    return "\n".join(first + [script.replace("{schema}", name) for script in scripts])


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
            await cursor_of(connection).execute(migration_sql(schema, since=version).encode())


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
    query = f"SELECT store_id FROM {quoted(schema)}.meta"
    row = await (await cursor_of(connection).execute(query.encode())).fetchone()
    if row is None:
        raise StoreCorruptError(f"Postgres schema {schema}: the table meta is empty")
    return str(row[0])


async def _version(connection: Connection, schema: str) -> int:
    """Return the version of a schema; 0 if there is none yet."""
    name = quoted(schema)
    found = await cursor_of(connection).execute(
        "SELECT to_regclass(%s), to_regclass(%s)", (f"{name}.meta", f"{name}.log")
    )
    meta, log = await found.fetchone() or (None, None)
    if meta is None or log is None:
        if meta is not None or log is not None:
            raise StoreCorruptError(f"Postgres schema {schema}: this is not a flowstate store")
        return 0
    query = f"SELECT version FROM {name}.meta"
    row = await (await cursor_of(connection).execute(query.encode())).fetchone()
    version = int(row[0]) if row else 0
    if version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"Postgres schema {schema}: version {version} is newer than {SCHEMA_VERSION}, "
            "the highest that this library knows; upgrade flowstate"
        )
    return version
