"""What redis-py's errors mean to a caller."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from flowstate.errors import (
    CodecError,
    DriverError,
    FlowstateError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["concerns_all", "is_passing", "making_sense", "translation", "was_sent"]

REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
NOT_SENT = (*REFUSED, exceptions.MaxConnectionsError, exceptions.BusyLoadingError)
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


@contextmanager
def making_sense() -> Iterator[None]:
    """Raise CodecError when an answer is not what the script gives for a store that is whole."""
    try:
        yield
    except FlowstateError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"answer of Redis: {error}") from error


def translation(error: exceptions.RedisError, namespace: str) -> DriverError:
    """Return the error of flowstate that says the same."""
    kind = next((ours for theirs, ours in _CLASSES if isinstance(error, theirs)), None)
    if kind is None:
        kind = next((ours for code, ours in _CODES.items() if _says(error, code)), DriverError)
    return kind(f"Redis namespace {namespace}: {error}")


def is_passing(error: exceptions.RedisError) -> bool:
    """Return whether the same command may succeed a little later."""
    if isinstance(error, REFUSED) or NOT_TRUSTED in str(error):
        return False
    return isinstance(error, PASSING) or _says(error, "BUSY")


def was_sent(error: exceptions.RedisError) -> bool:
    """Return whether the server may have had the command: the connection broke after it stood."""
    broke = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError)
    return broke and not isinstance(error, NOT_SENT) and "connecting to" not in str(error)


def concerns_all(error: BaseException | None) -> bool:
    """Return whether every other command would fail for the same reason."""
    if not isinstance(error, exceptions.RedisError):
        return False
    alike = (*NOT_SENT, exceptions.ReadOnlyError, exceptions.NoPermissionError)
    return isinstance(error, alike) or is_passing(error) or _says(error, "READONLY")


def _says(error: Exception, code: str) -> bool:
    # A script's error begins with the code, or names it, on old servers with a hyphen.
    return re.search(rf"(?:^|[ -]){code} ", str(error)) is not None
