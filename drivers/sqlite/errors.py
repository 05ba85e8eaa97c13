"""What SQLite's errors mean to a caller."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from flowstate.errors import (
    DriverError,
    FlowstateError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["translated", "translation"]

# Primary result codes, from sqlite.org/rescode.html; the low byte of an extended code.
_CLASSES: dict[int, type[DriverError]] = {
    sqlite3.SQLITE_BUSY: StoreBusyError,
    sqlite3.SQLITE_LOCKED: StoreBusyError,
    sqlite3.SQLITE_READONLY: StoreReadOnlyError,
    sqlite3.SQLITE_PERM: StoreReadOnlyError,
    sqlite3.SQLITE_FULL: StoreFullError,
    sqlite3.SQLITE_CORRUPT: StoreCorruptError,
    sqlite3.SQLITE_NOTADB: StoreCorruptError,
    sqlite3.SQLITE_SCHEMA: StoreCorruptError,
    # The statements are right for the tables as the library made them.
    sqlite3.SQLITE_ERROR: StoreCorruptError,
    sqlite3.SQLITE_CONSTRAINT: StoreCorruptError,
    sqlite3.SQLITE_MISMATCH: StoreCorruptError,
    sqlite3.SQLITE_IOERR: StoreUnavailableError,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailableError,
}


def translation(error: sqlite3.Error, path: str) -> DriverError:
    """Return the error of flowstate that says the same."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        kind = _CLASSES.get(code & 0xFF, DriverError)
    else:  # The error is of Python's module: only that text is no UTF-8 has a meaning here.
        kind = StoreCorruptError if "decode" in str(error) else DriverError
    return kind(f"{path}: {error}")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise errors of flowstate instead of SQLite's, and of those that odd rows lead to."""
    try:
        yield
    except FlowstateError:
        raise
    except sqlite3.Error as error:
        raise translation(error, path) from error
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise StoreCorruptError(f"{path}: {error}") from error
