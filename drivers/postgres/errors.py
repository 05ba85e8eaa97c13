"""What psycopg's errors mean to a caller."""

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from flowstate.errors import (
    DriverError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["is_passing", "translation"]

# What the server takes back by itself, and what goes away once it is up again.
PASSING = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.CannotConnectNow,
    errors.TooManyConnections,
    errors.AdminShutdown,
    errors.CrashShutdown,
)

# The first that fits counts.
_CLASSES: tuple[tuple[type[Exception], type[DriverError]], ...] = (
    (PoolClosed, StoreUnavailableError),
    (PoolTimeout, StoreBusyError),
    (TooManyRequests, StoreBusyError),
    (errors.DiskFull, StoreFullError),
    (errors.OutOfMemory, StoreFullError),
    (errors.ConfigurationLimitExceeded, StoreFullError),
    (errors.ReadOnlySqlTransaction, StoreReadOnlyError),
    (errors.InsufficientPrivilege, StoreReadOnlyError),
    (errors.QueryCanceled, StoreBusyError),
    (errors.LockNotAvailable, StoreBusyError),
    (errors.SerializationFailure, StoreBusyError),
    (errors.DeadlockDetected, StoreBusyError),
    (errors.DataCorrupted, StoreCorruptError),
    (errors.IndexCorrupted, StoreCorruptError),
    # The statements are right for the tables as the library made them.
    (psycopg.ProgrammingError, StoreCorruptError),
    (psycopg.IntegrityError, StoreCorruptError),
    (psycopg.OperationalError, StoreUnavailableError),
)


def translation(error: psycopg.Error, schema: str) -> DriverError:
    """Return the error of flowstate that says the same."""
    kind = next((ours for theirs, ours in _CLASSES if isinstance(error, theirs)), DriverError)
    text = str(error).strip() or type(error).__name__
    return kind(f"Postgres schema {schema}: {text}")


def is_passing(error: psycopg.Error) -> bool:
    """Return whether the same statement may succeed a little later."""
    if isinstance(error, PASSING):
        return True
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return lost and not isinstance(error, PoolTimeout | TooManyRequests | PoolClosed)
