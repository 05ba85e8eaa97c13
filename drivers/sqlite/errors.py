"""What SQLite's errors mean to a caller."""

import sqlite3

from flowstate.errors import (
    DriverError,
    FlowstateError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

__all__ = ["translated"]

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


class translated:  # noqa: N801 - one for each file, so that a transaction makes none
    """Raises errors of flowstate instead of SQLite's, and of those that odd rows lead to."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None or isinstance(error, FlowstateError):
            return
        if isinstance(error, sqlite3.Error):
            # What it cannot decode it would repeat.
            text = str(error).partition(" with text ")[0]
            raise _class_of(error)(f"{self._path}: {text}") from error
        if isinstance(error, TypeError | ValueError | LookupError | OverflowError):
            raise StoreCorruptError(f"{self._path}: {error}") from error


def _class_of(error: sqlite3.Error) -> type[DriverError]:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _CLASSES.get(code & 0xFF, DriverError)
    # The error is of Python's module: only that text is no UTF-8 has a meaning here.
    return StoreCorruptError if "decode" in str(error) else DriverError
