"""A bank and a carrier as services really are: they fail, and some replies get lost."""

import sqlite3
from contextlib import closing
from pathlib import Path
from zlib import crc32

Entry = tuple[str, int]  # "charge" or "refund", and cents.
SCHEMA = """
CREATE TABLE IF NOT EXISTS booked (key TEXT PRIMARY KEY, id TEXT, kind TEXT, cents INTEGER);
CREATE TABLE IF NOT EXISTS call (number INTEGER PRIMARY KEY, key TEXT);
"""
CHARGE = "INSERT OR IGNORE INTO booked VALUES (?, ?, 'charge', ?)"
REFUND = """INSERT OR IGNORE INTO booked
SELECT ?, id, 'refund', sum(cents) FROM booked WHERE id = ? AND kind = 'charge' GROUP BY id"""


class BankError(Exception):
    """The bank did not answer. Perhaps it has booked, perhaps not."""


class CarrierError(Exception):
    """The carrier does not take this."""


class Bank:
    """Books once for each key, in a file of its own, whichever process asks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def charge(self, key: str, id: str, cents: int) -> None:
        """Take the money of an order."""
        self._call(CHARGE, key, id, cents)

    def refund(self, key: str, id: str) -> None:
        """Give back what was taken for an order, if anything was."""
        self._call(REFUND, key, id)

    def _call(self, statement: str, key: str, *values: str | int) -> None:
        with closing(self._open()) as books, books:
            calls = books.execute("INSERT INTO call (key) VALUES (?)", (key,)).lastrowid
            mood = crc32(f"{key} {calls}".encode()) % 10
            if mood > 1:  # Of ten calls, two fail before they are booked,
                books.execute(statement, (key, *values))
        if mood < 4:  # and of two more the reply is lost.
            raise BankError("no answer")

    def books(self) -> dict[str, list[Entry]]:
        """Return what was booked for each order, in order."""
        found: dict[str, list[Entry]] = {}
        with closing(self._open()) as books:
            for id, *entry in books.execute("SELECT id, kind, cents FROM booked ORDER BY rowid"):
                found.setdefault(id, []).append(tuple(entry))
        return found

    def calls(self) -> int:
        """Return how many calls there were."""
        with closing(self._open()) as books:
            return int(books.execute("SELECT count(*) FROM call").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        books = sqlite3.connect(self._path, timeout=60.0)
        books.executescript(SCHEMA)
        return books


def ship(item: str) -> None:
    """Hand a parcel to the carrier."""
    if item == "anvil":
        raise CarrierError("too heavy")
