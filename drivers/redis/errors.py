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
FORBIDDEN = (exceptions.ReadOnlyError, exceptions.NoPermissionError)
# The last two: a deadline of ours, and the name of a host that is none.
BROKEN = (exceptions.ConnectionError, exceptions.TimeoutError, TimeoutError, UnicodeError)
# Of ours, of redis-py, and the codes that servers begin their errors with. A class counts before a
# code, and then the first one.
_MEANINGS: tuple[tuple[type[DriverError], tuple[type[Exception], ...], str], ...] = (
    (StoreReadOnlyError, FORBIDDEN, "READONLY|MISCONF|NOREPLICAS"),
    (StoreFullError, (exceptions.OutOfMemoryError,), "OOM"),
    (StoreBusyError, (exceptions.MaxConnectionsError,), "BUSY"),
    (StoreUnavailableError, (*BROKEN, exceptions.ClusterError), "CLUSTERDOWN"),
    # The last: a stream that is ahead of the store's head.
    (StoreCorruptError, (), "CORRUPT|WRONGTYPE|ID specified in XADD"),
)
PASSING = (
    *BROKEN,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
)
LONGEST_MESSAGE = 1_000
NOT_TRUSTED = "certificate verify failed"


def failed(error: Exception, store: str) -> Failed:
    """Return what an attempt that raised ``error`` has come to; ``store`` is a name for it."""
    message = str(error) or "the server does not answer"
    kinds = [ours for ours, theirs, _ in _MEANINGS if isinstance(error, theirs)]
    kinds += [ours for ours, _, codes in _MEANINGS if _says(message, codes)]
    kind = (*kinds, DriverError)[0]
    # Of an unknown command, some servers repeat the arguments.
    shown = message.partition(", with args beginning with")[0][:LONGEST_MESSAGE]
    is_refused = isinstance(error, REFUSED) or NOT_TRUSTED in message
    was_sent = isinstance(error, BROKEN) and not isinstance(error, NOT_SENT)
    return Failed(
        kind(f"{store}: {shown}"),
        passing=not is_refused and (isinstance(error, PASSING) or _says(message, "BUSY")),
        # The connection broke after it stood.
        lost=was_sent and "connecting to" not in message,
        common=isinstance(error, (*NOT_SENT, *FORBIDDEN)) or _says(message, "READONLY"),
    )


def _says(message: str, codes: str) -> bool:
    # A script's error begins with the code, or names it, on old servers with a hyphen.
    return re.search(rf"(?:^|[ -])(?:{codes}) ", message) is not None
