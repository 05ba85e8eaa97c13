"""What is in the store: records by key, and an index of sorted keys that follow from them."""

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
    """Return a key in the order of (due, id)."""
    return (due + OFFSET).to_bytes(8, "big") + id.encode()[:LONGEST_ID] + digest(id)


def time_of(place: bytes) -> int:
    return int.from_bytes(place[:8], "big") - OFFSET


class Revision(Struct, array_like=True):
    """A revision; times are microseconds, here and below."""

    rev: int
    id: str
    committed_at: int
    delayed_until: int | None
    body: str
    token: str
    status: str
    labels: dict[str, str]
    checksums: list[str]


class Latest(Struct, array_like=True):
    """Which revision of a state is the latest, when it stalls, and its last heartbeat."""

    rev: int
    id: str
    flow: str
    status: str
    labels: dict[str, str]
    stalls_after: int | None = None
    stalls_at: int | None = None
    beat_at: int | None = None
    note: str = ""


class Delay(Struct, array_like=True):
    """A delay that has not fired."""

    rev: int
    id: str
    state_id: str
    due: int
    flow: str
    holder: str
    references: list[str]
    body: str


Record = Revision | Latest | Delay
R = TypeVar("R", Revision, Latest, Delay)


def key_of(record: Record) -> bytes:
    return rev_key(record.rev) if isinstance(record, Revision) else digest(record.id)


def index_of(record: Record) -> Iterator[bytes]:
    """Return what a record is found by: the name of a list, and the place in it."""
    key = key_of(record)
    if isinstance(record, Delay):
        yield b"due delay" + digest(record.flow) + place_of(record.due, record.id)
        yield b"delays of" + digest(record.state_id) + key
        yield from (b"data" + checksum.encode() + key for checksum in record.references)
        return
    end, status = rev_key(record.rev), record.status.encode()
    labels = [digest(*pair) for pair in record.labels.items()]
    if isinstance(record, Revision):
        yield from (b"every" + end, b"status" + status + end)
        yield from (b"label" + label + end for label in labels)
        yield from (b"data" + checksum.encode() + end for checksum in record.checksums)
        return
    yield from (b"latest every" + end, b"latest status" + status + end)
    for label in labels:
        yield from (b"latest label" + label + end, b"latest both" + label + status + end)
    if record.stalls_at is not None:
        yield b"due stall" + digest(record.flow) + place_of(record.stalls_at, record.id)


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
        key, flow = key_of(record), getattr(record, "flow", "")
        self.remove(self.find(type(record), key))  # type: ignore[type-var]
        self.put(type(record).__name__, key, msgpack.encode(record))
        for place in index_of(record):
            self.put("index", place, msgpack.encode((flow, key)))

    def remove(self, record: Record | None) -> None:
        if record is not None:
            self.delete(type(record).__name__, key_of(record))
            for place in index_of(record):
                self.delete("index", place)

    def scan(
        self, name: str, prefix: bytes, start: bytes = b"", *, back: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over keys with a prefix, without it, and their values; or from the end."""
        cursor = self.txn.cursor(self._databases[name])
        found = cursor.set_range(prefix + (b"\xff" * 9 if back else start))
        if back:
            found = cursor.prev() if found else cursor.last()
        while found and cursor.key().startswith(prefix):
            yield cursor.key()[len(prefix) :], cursor.value()
            found = cursor.prev() if back else cursor.next()

    def delays_of(self, id: str) -> list[Delay]:
        keys = [key for key, _ in self.scan("index", b"delays of" + digest(id))]
        return [found for key in keys if (found := self.find(Delay, key))]
