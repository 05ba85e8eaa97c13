"""What is in the file: records by key, and an index of sorted keys that follow from them."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, TypeVar

from msgspec import Struct, msgpack

OFFSET = 2**63
LONGEST_ID = 400  # Of an id in a key, which has at most 511 bytes.


def digest(*texts: str) -> bytes:
    return blake2b(msgpack.encode(texts), digest_size=16).digest()


def rev_key(rev: int) -> bytes:
    return min(rev, OFFSET - 1).to_bytes(8, "big")


def place_of(due: int, id: str) -> bytes:
    """Return a place in the order of (due, id)."""
    return (due + OFFSET).to_bytes(8, "big") + id.encode()[:LONGEST_ID] + digest(id)


class Revision(Struct):
    """A revision without its body, and what is known about the latest; times are microseconds."""

    rev: int
    id: str
    committed_at: int
    delayed_until: int | None
    flow: str
    status: str
    labels: dict[str, str]
    checksums: list[str]
    stalls_after: int | None
    due: int | None
    is_latest: bool = True
    beat_at: int | None = None
    note: str = ""

    def key(self) -> bytes:
        return rev_key(self.rev)

    def places(self) -> Iterator[bytes]:
        """Return what a record is found by: the name of a list, and the place in it."""
        pairs: list[tuple[str, ...]] = [(), *self.labels.items()]
        lists = [digest(*pair, status) for pair in pairs for status in ("", self.status)]
        yield from (b"every" + each + self.key() for each in lists)
        yield from (b"data" + checksum.encode() + self.key() for checksum in self.checksums)
        if self.is_latest:
            yield b"id" + digest(self.id)
            yield from (b"latest" + each + self.key() for each in lists)
            if self.due is not None:
                yield b"due stall" + digest(self.flow) + place_of(self.due, self.id)


class Delay(Struct):
    """A delay that has not fired."""

    rev: int
    id: str
    state_id: str
    due: int
    flow: str
    holder: str
    references: list[str]
    body: str

    def key(self) -> bytes:
        return digest(self.id)

    def places(self) -> Iterator[bytes]:
        yield b"due delay" + digest(self.flow) + place_of(self.due, self.id)
        yield b"of state" + digest(self.state_id) + self.key()
        yield from (b"data" + checksum.encode() + self.key() for checksum in self.references)


class Blob(Struct):
    """Data, and the head when it was stored."""

    checksum: str
    head: int
    annotations: dict[str, str]
    blob: bytes

    def key(self) -> bytes:
        return self.checksum.encode()

    def places(self) -> Iterator[bytes]:
        yield b"stored" + rev_key(self.head) + self.key()


R = TypeVar("R", Revision, Delay, Blob)


class Tables:
    """One transaction: the snapshot that is read, or what is written at once."""

    def __init__(self, txn: Any, now: int) -> None:
        self.txn, self.now = txn, now

    def number(self, name: bytes, default: int = 0) -> int:
        return int(self.txn.get(name) or default)

    def find(self, kind: type[R], key: bytes | None) -> R | None:
        value = None if key is None else self.txn.get(kind.__name__.encode() + key)
        return None if value is None else msgpack.decode(value, type=kind)

    def store(self, record: R) -> None:
        key, kind = record.key(), type(record)
        before = self.find(kind, key)
        for place in before.places() if before else ():
            self.txn.delete(place)
        self.txn.put(kind.__name__.encode() + key, msgpack.encode(record))
        for place in record.places():
            self.txn.put(place, key)

    def remove(self, record: R) -> None:
        key, kind = record.key(), type(record)
        for place in (kind.__name__.encode() + key, b"body" + key, *record.places()):
            self.txn.delete(place)

    def scan(self, name: bytes, start: bytes = b"", step: int = 1) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over a list from a place on, up or down: the places, and keys of records."""
        cursor = self.txn.cursor()
        found = cursor.set_range(name + start)
        if step < 0 and not (found and cursor.key() == name + start):
            found = cursor.prev() if found else cursor.last()
        while found and cursor.key().startswith(name):
            yield cursor.key()[len(name) :], cursor.value()
            found = cursor.next() if step > 0 else cursor.prev()

    def latest(self, id: str) -> Revision | None:
        return self.find(Revision, self.txn.get(b"id" + digest(id)))

    def delays_of(self, id: str) -> list[Delay]:
        keys = [key for _, key in self.scan(b"of state" + digest(id))]
        return [found for key in keys if (found := self.find(Delay, key))]
