"""Files of records, in a form that survives the death of those who write.

Every process writes its own records, one JSON array a line, to a file of its own or to one that it
shares with others. A record is written in one call, so a process that is killed leaves whole
records, and at most one that is torn.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from flowstate.testing.histories.history import History, Record

__all__ = ["HistoryFile", "read_history", "read_records"]


class HistoryFile:
    """Appends records to a file; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, record: Record) -> None:
        """Write a record; once this returns, it survives the death of the process.

        Raises:
            OSError: it is not written, or torn, as on a full disk.
        """
        # The line break is in front: a record that the death of its writer has torn spoils none
        # of those that others write behind it.
        line = b"\n" + msgspec.json.encode(record)
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, "a record is torn", self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_records(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Record], int]:
    """Return all records of some files, and how many are torn."""
    decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
    records: list[Record] = []
    torn = 0
    for path in paths:
        text = Path(path).read_bytes()
        try:
            records += decoder.decode_lines(text)
        except msgspec.DecodeError:
            for line in filter(None, text.split(b"\n")):
                try:
                    records.append(decoder.decode(line))
                except msgspec.ValidationError:
                    raise
                except msgspec.DecodeError:
                    torn += 1
    return records, torn


def read_history(paths: Iterable[str | os.PathLike[str]]) -> History:
    """Return the history that some files tell together."""
    records, torn = read_records(paths)
    return History(records, torn=torn)
