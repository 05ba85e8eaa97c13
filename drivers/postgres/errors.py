"""What psycopg's errors mean to a caller."""

from typing import NoReturn

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from flowstate.drivers.kit.resolving import Failed
from flowstate.errors import (
    DriverError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["fail", "translation"]

OF_THE_POOL = (PoolTimeout, TooManyRequests, PoolClosed)
TAKEN_BACK = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
# What the server takes back by itself, and what goes away once it is up again.
PASSING = (*TAKEN_BACK, errors.CannotConnectNow, errors.TooManyConnections)
# What fails in the same way for whatever else is asked now.
FOR_ALL = (
    *OF_THE_POOL,
    errors.QueryCanceled,
    errors.ReadOnlySqlTransaction,
    errors.InvalidTransactionState,
)
# The first that fits counts.
_CLASSES: tuple[tuple[tuple[type[Exception], ...], type[DriverError]], ...] = (
    # The second is of lock_commits().
    ((PoolClosed, errors.InvalidTransactionState), StoreUnavailableError),
    ((PoolTimeout, TooManyRequests, errors.QueryCanceled, *TAKEN_BACK), StoreBusyError),
    ((errors.DiskFull, errors.OutOfMemory, errors.ConfigurationLimitExceeded), StoreFullError),
    ((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege), StoreReadOnlyError),
    ((errors.DataCorrupted, errors.IndexCorrupted), StoreCorruptError),
    # The statements are right for the tables as the library made them.
    ((psycopg.ProgrammingError, psycopg.IntegrityError), StoreCorruptError),
    ((psycopg.OperationalError,), StoreUnavailableError),
)


def translation(error: psycopg.Error, name: str) -> DriverError:
    """Return the error of flowstate that says the same."""
    kind = next((ours for theirs, ours in _CLASSES if isinstance(error, theirs)), DriverError)
    return kind(f"{name}: {_text(error)}")


def _text(error: psycopg.Error) -> str:
    # The details that a server tells may hold what is stored.
    return (error.diag.message_primary or str(error)).strip() or type(error).__name__


def fail(error: psycopg.Error, name: str, *, connected: bool = True) -> NoReturn:
    """Raise what became of a statement; its cause is the error, without the server's details.

    Args:
        error: that it raised.
        name: of the store.
        connected: whether the connection is sound after it. An error that the server sent over
            one undid everything.

    Raises:
        Failed: always.
    """
    # The server closes the connection after such an error, if it has not yet.
    lost = not connected or error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
    broken = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    passing = isinstance(error, PASSING) or (broken and not isinstance(error, OF_THE_POOL))
    raise Failed(
        translation(error, name),
        passing=passing or lost,
        lost=lost,
        common=isinstance(error, FOR_ALL),
    ) from type(error)(_text(error)).with_traceback(error.__traceback__)
