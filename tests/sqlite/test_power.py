"""Power cuts: whatever part of the write-ahead log reached the disk, a whole prefix is there."""

import contextlib
import random
import sqlite3
from pathlib import Path

import pytest
from msgspec import Struct

from flowstate.drivers.sqlite import SQLiteDriver
from tests.sqlite.support import commit_one, file_of, put, revs_in

pytestmark = pytest.mark.slow

FRAME = 24 + 4096
COMMITS = 40


class Recording(Struct):
    """What the disk held, and after how many bytes of the log which revision was acknowledged."""

    before: bytes
    wal: bytes
    acknowledged: list[tuple[int, int]]
    after: bytes
    old_wal: bytes = b""

    def head_at(self, length: int) -> int:
        """Return the highest revision that so many bytes of the log hold."""
        return max(head for end, head in self.acknowledged if end <= length)

    def ends(self) -> list[int]:
        return [end for end, _ in self.acknowledged]


def checkpoint(driver: SQLiteDriver, mode: str) -> None:
    busy, _, _ = file_of(driver)._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    assert not busy


async def commit_some(driver: SQLiteDriver, wal: Path, head: int) -> list[tuple[int, int]]:
    """Commit pairs of revisions; note the length of the log after each."""
    acknowledged: list[tuple[int, int]] = []
    for i in range(head, head + COMMITS):
        labels = {"number": f"{i % 5}", "long": "x" * 300}
        (state,) = await commit_one(driver, put(f"{i}", f"state-{i}", labels=labels))
        acknowledged.append((wal.stat().st_size, state.rev))
    return acknowledged


@pytest.fixture
async def recording(tmp_path: Path) -> Recording:
    path, wal = tmp_path / "store.db", tmp_path / "store.db-wal"
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("first", "first"))
        checkpoint(driver, "TRUNCATE")
        before = path.read_bytes()
        acknowledged = [(0, 1), *(await commit_some(driver, wal, 1))]
        log = wal.read_bytes()
        checkpoint(driver, "RESTART")
        return Recording(before, log, acknowledged, path.read_bytes())


@pytest.fixture
async def second_round(tmp_path: Path) -> Recording:
    """A log that has begun anew from its start: behind its end are frames of the round before."""
    path, wal = tmp_path / "store.db", tmp_path / "store.db-wal"
    async with SQLiteDriver(path) as driver:
        await commit_some(driver, wal, 0)
        old = wal.read_bytes()
        checkpoint(driver, "RESTART")
        before = path.read_bytes()
        for i in range(5):
            await commit_one(driver, put(f"{i}", f"new-{i}"))
        log = wal.read_bytes()
    assert len(log) == len(old)
    return Recording(before, log, [(0, COMMITS)], b"", old)


def heads(folder: Path, database: bytes, wal: bytes) -> int:
    """Start SQLite on these files as after a power cut; return the head of a dense log."""
    path = folder / "cut.db"
    path.write_bytes(database)
    (folder / "cut.db-wal").write_bytes(wal)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        revs = [rev for (rev,) in connection.execute("SELECT rev FROM log ORDER BY rev")]
        latest = [rev for (rev,) in connection.execute("SELECT rev FROM latest ORDER BY rev")]
    assert revs == latest == list(range(1, len(revs) + 1))
    return len(revs)


def test_every_length_of_the_log(recording: Recording, tmp_path: Path) -> None:
    rng = random.Random(1)
    size = len(recording.wal)
    lengths = {0, 1, 31, 32, 33, size - 1, size, *(rng.randrange(size) for _ in range(150))}
    for end in recording.ends():
        lengths |= {max(end - 1, 0), end, end + 1, end + 23, end + FRAME - 1, end + FRAME}
    assert len(lengths) > 250
    for length in lengths:
        found = heads(tmp_path, recording.before, recording.wal[:length])
        assert found == recording.head_at(length)


@pytest.mark.parametrize("tail", ["zeros", "noise", "flipped"])
def test_a_torn_end(recording: Recording, tmp_path: Path, tail: str) -> None:
    """The file has its full length, but not everything in it was written."""
    rng = random.Random(tail)
    size = len(recording.wal)
    for _ in range(25):
        length = rng.randrange(size)
        rest = recording.wal[length:]
        if tail == "zeros":
            rest = bytes(len(rest))
        elif tail == "noise":
            rest = rng.randbytes(len(rest))
        else:
            rest = bytes([rest[0] ^ 0xFF]) + rest[1:]
        found = heads(tmp_path, recording.before, recording.wal[:length] + rest)
        assert found == recording.head_at(length)


def test_a_checkpoint_that_was_not_finished(recording: Recording, tmp_path: Path) -> None:
    """Any pages of the database may have been written: the log still has them all."""
    rng = random.Random(2)
    for _ in range(25):
        pages = [
            (recording.after if rng.random() < 0.5 else recording.before)[at : at + 4096]
            for at in range(0, len(recording.after), 4096)
        ]
        database = b"".join(page or bytes(4096) for page in pages)
        assert heads(tmp_path, database, recording.wal) == recording.head_at(len(recording.wal))


def test_frames_of_an_earlier_round_are_ignored(second_round: Recording, tmp_path: Path) -> None:
    heads_found: set[int] = set()
    for length in range(0, 80 * FRAME, FRAME // 2):
        wal = second_round.wal[:length] + second_round.old_wal[length:]
        heads_found.add(heads(tmp_path, second_round.before, wal))
    assert heads_found == set(range(COMMITS, COMMITS + 6))


async def test_the_driver_goes_on(recording: Recording, tmp_path: Path) -> None:
    rng = random.Random(3)
    path = tmp_path / "cut.db"
    for _ in range(8):
        length = rng.randrange(len(recording.wal))
        path.write_bytes(recording.before)
        (tmp_path / "cut.db-wal").write_bytes(recording.wal[:length])
        head = recording.head_at(length)
        async with SQLiteDriver(path) as driver:
            (state,) = await commit_one(driver, put("more", "more"))
            assert state.rev == head + 1
        assert await revs_in(path) == list(range(1, head + 2))
