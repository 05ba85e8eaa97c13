"""The Postgres driver. Needs the extra ``flowstate-engine[postgres]``."""

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the Postgres driver needs psycopg and psycopg_pool: "
        "pip install 'flowstate-engine[postgres]'"
    ) from error

from flowstate.drivers.postgres.driver import PostgresDriver
from flowstate.drivers.postgres.schema import migrate, migration_sql

__all__ = ["PostgresDriver", "migrate", "migration_sql"]
