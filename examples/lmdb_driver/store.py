"""What is in the store: records by key, and an index of sorted keys that follow from them."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, TypeVar

from msgspec import Struct, msgpack

__all__ = ["Delay", "Latest", "Revision", "Tables", "digest", "place_of", "rev_key", "time_of"]

OFFSET = 2**63
LONGEST_ID = 400  # Of an id in a key, which has at most 511 bytes.


def digest(*texts: str) -> bytes:
    return blake2b(msgpack.encode(texts), digest_size=16).digest()


def rev_key(rev: int) -> bytes:
    return min(rev, OFFSET - 1).to_bytes(8, "big")


def place_of(due: int, id: str) -> bytes:
    """Return a key in the order of (due, id)."""
    return (due + OFFSET).to_bytes(8, "big") + id.encode()[:LONGEST_ID] + digest(id)


def time_of(place: bytes) -> int:
    return int.from_bytes(place[:8], "big") - OFFSET


class Record(Struct, array_like=True):
    """Something stored; times are microseconds. Its index has what it is found by."""

    def key(self) -> bytes:
        raise NotImplementedError

    def index(self) -> list[tuple[bytes, bytes]]:
        """Return prefixes, which are looked for, and what comes behind them."""
        raise NotImplementedError


R = TypeVar("R", bound=Record)


class Revision(Record):
    id: str
    rev: int
    committed_at: int
    delayed_until: int | None
    token: str
    status: str
    labels: dict[str, str]
    checksums: list[str]
    body: str

    def key(self) -> bytes:
        return rev_key(self.rev)

    def index(self) -> list[tuple[bytes, bytes]]:
        found = [b"status" + self.status.encode(), b"every"]
        found += [b"label" + digest(*pair) for pair in self.labels.items()]
        found += [b"data" + each.encode() for each in self.checksums]
        return [(prefix, self.key()) for prefix in found]

    def row(self) -> tuple[Any, ...]:
        return (self.rev, self.id, self.committed_at, self.delayed_until, self.body)


class Latest(Record):
    """Which revision of a state is the latest, when it stalls, and its last heartbeat."""

    id: str
    rev: int
    flow: str
    status: str
    labels: dict[str, str]
    stalls_after: int | None = None
    stalls_at: int | None = None
    beat_at: int | None = None
    note: str = ""

    def key(self) -> bytes:
        return digest(self.id)

    def index(self) -> list[tuple[bytes, bytes]]:
        status = self.status.encode()
        found = [b"latest status" + status, b"latest every"]
        for label in [digest(*pair) for pair in self.labels.items()]:
            found += [b"latest label" + label, b"latest both" + label + status]
        places = [(prefix, rev_key(self.rev)) for prefix in found]
        if self.stalls_at is not None:
            places.append((b"due stall" + digest(self.flow), place_of(self.stalls_at, self.id)))
        return places


class Delay(Record):
    id: str
    state_id: str
    rev: int
    due: int
    flow: str
    holder: str
    references: list[str]
    body: str

    def key(self) -> bytes:
        return digest(self.id)

    def index(self) -> list[tuple[bytes, bytes]]:
        found = [(b"data" + each.encode(), self.key()) for each in self.references]
        found.append((b"delays of" + digest(self.state_id), self.key()))
        return [*found, (b"due delay" + digest(self.flow), place_of(self.due, self.id))]


class Tables:
    """One transaction: the snapshot that is read, or what is written at once."""

    def __init__(self, env: Any, databases: dict[str, Any], *, write: bool = False) -> None:
        self.txn = env.begin(write=write)
        self._databases = databases

    def get(self, name: str, key: bytes) -> Any:
        return self.txn.get(key, db=self._databases[name])

    def put(self, name: str, key: bytes, value: bytes) -> None:
        self.txn.put(key, value, db=self._databases[name])

    def delete(self, name: str, key: bytes) -> None:
        self.txn.delete(key, db=self._databases[name])

    def number(self, name: str, default: int = 0) -> int:
        return int(self.get("meta", name.encode()) or default)

    def set_number(self, name: str, value: int) -> None:
        self.put("meta", name.encode(), str(value).encode())

    def find(self, kind: type[R], key: bytes) -> R | None:
        value = self.get(kind.__name__, key)
        return None if value is None else msgpack.decode(value, type=kind)

    def store(self, record: Record) -> None:
        self.remove(self.find(type(record), record.key()))
        self.put(type(record).__name__, record.key(), msgpack.encode(record))
        # What a list is of can be read there, so that it is known for which flows there are some.
        name = getattr(record, "flow", "").encode()
        for prefix, place in record.index():
            self.put("index", prefix + place, msgpack.encode((name.decode(), record.key())))

    def remove(self, record: Record | None) -> None:
        if record is not None:
            self.delete(type(record).__name__, record.key())
            for prefix, place in record.index():
                self.delete("index", prefix + place)

    def scan(self, name: str, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over keys with a prefix, without it, from ``start`` on, and their values."""
        cursor = self.txn.cursor(self._databases[name])
        found = cursor.set_range(prefix + start)
        while found and cursor.key().startswith(prefix):
            yield cursor.key()[len(prefix) :], cursor.value()
            found = cursor.next()

    def newest(self, prefix: bytes) -> Iterator[int]:
        """Iterate over the revisions of a list, newest first."""
        cursor = self.txn.cursor(self._databases["index"])
        found = cursor.set_range(prefix + b"\xff" * 9)
        found = cursor.prev() if found else cursor.last()
        while found and cursor.key().startswith(prefix):
            yield int.from_bytes(cursor.key()[-8:], "big")
            found = cursor.prev()

    def delays_of(self, id: str) -> list[Delay]:
        keys = [key for key, _ in self.scan("index", b"delays of" + digest(id))]
        return [found for key in keys if (found := self.find(Delay, key))]
