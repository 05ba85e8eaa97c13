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

__all__ = ["UnreachableError", "concerns_all", "ends_connection", "is_passing", "translation"]


class UnreachableError(PoolTimeout):
    """The pool had no connection because none could be made."""


# What the server takes back by itself, and what goes away once it is up again.
PASSING = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.CannotConnectNow,
    errors.TooManyConnections,
)

# What fails in the same way for whatever else is asked now.
FOR_ALL = (
    PoolTimeout,
    TooManyRequests,
    PoolClosed,
    errors.QueryCanceled,
    errors.ReadOnlySqlTransaction,
    errors.InvalidTransactionState,
)

# The first that fits counts.
_CLASSES: tuple[tuple[type[Exception], type[DriverError]], ...] = (
    (PoolClosed, StoreUnavailableError),
    (UnreachableError, StoreUnavailableError),
    (PoolTimeout, StoreBusyError),
    (TooManyRequests, StoreBusyError),
    (errors.DiskFull, StoreFullError),
    (errors.OutOfMemory, StoreFullError),
    (errors.ConfigurationLimitExceeded, StoreFullError),
    (errors.ReadOnlySqlTransaction, StoreReadOnlyError),
    (errors.InsufficientPrivilege, StoreReadOnlyError),
    (errors.InvalidTransactionState, StoreUnavailableError),  # Of lock_commits().
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
    if isinstance(error, PASSING) or ends_connection(error):
        return True
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return lost and not isinstance(error, PoolTimeout | TooManyRequests | PoolClosed)


def ends_connection(error: psycopg.Error) -> bool:
    """Return whether the server closes the connection after this error, if it has not yet."""
    return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}


def concerns_all(error: BaseException | None) -> bool:
    """Return whether every other statement would fail for the same reason."""
    return isinstance(error, psycopg.Error) and (isinstance(error, FOR_ALL) or is_passing(error))
