"""What redis-py's errors mean to a caller."""

import re

from redis import exceptions

from flowstate.drivers.kit.resolving import Failed
from flowstate.errors import (
    DriverError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["failed"]

REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
NOT_SENT = (*REFUSED, exceptions.MaxConnectionsError, exceptions.BusyLoadingError)
FAILS_ALL = (*NOT_SENT, exceptions.ReadOnlyError, exceptions.NoPermissionError)
LONGEST_MESSAGE = 1_000
NOT_TRUSTED = "certificate verify failed"
PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
)
# The first that fits counts.
_CLASSES: tuple[tuple[type[Exception], type[DriverError]], ...] = (
    (exceptions.ReadOnlyError, StoreReadOnlyError),
    (exceptions.NoPermissionError, StoreReadOnlyError),
    (exceptions.OutOfMemoryError, StoreFullError),
    (exceptions.MaxConnectionsError, StoreBusyError),
    (exceptions.ConnectionError, StoreUnavailableError),
    (exceptions.TimeoutError, StoreUnavailableError),
    (exceptions.ClusterError, StoreUnavailableError),
)
_CODES = {
    "CORRUPT": StoreCorruptError,
    "BUSY": StoreBusyError,
    "OOM": StoreFullError,
    "READONLY": StoreReadOnlyError,
    "MISCONF": StoreReadOnlyError,
    "NOREPLICAS": StoreReadOnlyError,
    "WRONGTYPE": StoreCorruptError,
}


def failed(error: exceptions.RedisError, namespace: str) -> Failed:
    """Return what an attempt that raised ``error`` has come to."""
    return Failed(
        _translation(error, namespace),
        passing=_is_transient(error),
        lost=_was_sent(error),
        common=isinstance(error, FAILS_ALL) or _says(error, "READONLY"),
    )


def _translation(error: exceptions.RedisError, namespace: str) -> DriverError:
    """Return the error of flowstate that says the same."""
    kind = next((ours for theirs, ours in _CLASSES if isinstance(error, theirs)), None)
    if kind is None:
        kind = next((ours for code, ours in _CODES.items() if _says(error, code)), DriverError)
    return kind(f"Redis namespace {namespace}: {_without_values(str(error))}")


def _without_values(message: str) -> str:
    # Of an unknown command, some servers repeat the arguments.
    return message.partition(", with args beginning with")[0][:LONGEST_MESSAGE]


def _is_transient(error: exceptions.RedisError) -> bool:
    """Return whether the same command may succeed a little later."""
    if isinstance(error, REFUSED) or NOT_TRUSTED in str(error):
        return False
    return isinstance(error, PASSING) or _says(error, "BUSY")


def _was_sent(error: exceptions.RedisError) -> bool:
    """Return whether the server may have had the command: the connection broke after it stood."""
    broke = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError)
    return broke and not isinstance(error, NOT_SENT) and "connecting to" not in str(error)


def _says(error: Exception, code: str) -> bool:
    # A script's error begins with the code, or names it, on old servers with a hyphen.
    return re.search(rf"(?:^|[ -]){code} ", str(error)) is not None
