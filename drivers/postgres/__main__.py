"""``python -m flowstate.drivers.postgres sql|migrate``: the tables of a store, by hand."""

import argparse
import asyncio
import sys

import psycopg

from flowstate.drivers.postgres.errors import translation
from flowstate.drivers.postgres.schema import SCHEMA_VERSION, migrate, migration_sql, quoted
from flowstate.errors import FlowstateError, InvalidInputError

__all__ = ["main"]

PROGRAM = "python -m flowstate.drivers.postgres"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Make the tables of a store, or bring them up to date."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sql = commands.add_parser("sql", help="print the SQL, to be run in one transaction")
    apply = commands.add_parser("migrate", help="run it, if the store needs it")
    apply.add_argument("url", help="of the database, as postgresql://user:password@host/name")
    for command in (sql, apply):
        command.add_argument("--schema", default="flowstate", help="default: %(default)s")
    sql.add_argument("--since", type=int, default=0, help="the version that the store has now")
    return parser


async def _migrate(url: str, schema: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await migrate(connection, schema)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do it.

    Raises:
        SystemExit: 1 if the database refuses it, 2 for a command line that makes no sense.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        quoted(given.schema)
        if given.command == "sql":
            sys.stdout.write(migration_sql(given.schema, since=given.since))
        else:
            asyncio.run(_migrate(given.url, given.schema))
            sys.stdout.write(f"schema {given.schema}: version {SCHEMA_VERSION}\n")
    except InvalidInputError as error:
        parser.error(str(error))
    except psycopg.Error as error:
        name = f"Postgres schema {given.schema}"
        sys.exit(f"{PROGRAM}: {translation(error, name)}")
    except FlowstateError as error:
        sys.exit(f"{PROGRAM}: {error}")


if __name__ == "__main__":
    main()
