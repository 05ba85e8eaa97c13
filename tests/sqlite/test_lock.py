"""The lock by which writers take turns, alone."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flowstate import StoreBusyError, StoreReadOnlyError, StoreUnavailableError
from flowstate.drivers.sqlite.lock import WriterLock


def opened(path: Path, timeout: float = 30.0) -> WriterLock:
    lock = WriterLock(str(path), timeout)
    lock.open()
    return lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        lock = opened(tmp_path / "db")
        for _ in range(20):
            with lock:
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
        lock.close()

    run_threads([partial(work, number) for number in range(4)])
    assert len(most) == 80
    assert set(most) == {1}


def run_threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_who_waits_comes_before_who_has_just_held_it(tmp_path: Path) -> None:
    """A holder that takes the lock again at once cannot pass the one that waits."""
    greedy, patient = opened(tmp_path / "db"), opened(tmp_path / "db")
    stop, held = threading.Event(), threading.Event()
    turns = 0

    def hog() -> None:
        nonlocal turns
        while not stop.is_set():
            with greedy:
                turns += 1
                held.set()

    hogging = threading.Thread(target=hog)
    hogging.start()
    held.wait()
    waits: list[float] = []
    for _ in range(50):
        started = time.monotonic()
        with patient:
            waits.append(time.monotonic() - started)
    stop.set()
    hogging.join()
    assert turns > 0
    assert max(waits) < 1.0
    greedy.close()
    patient.close()


def test_gives_up_after_the_timeout_and_can_try_again(tmp_path: Path) -> None:
    first, second, third = (opened(tmp_path / "db", 0.05) for _ in range(3))
    with first:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(StoreBusyError, match="another process"):
                second.__enter__()
            assert 0.05 <= time.monotonic() - started < 2.0
        with pytest.raises(StoreBusyError):  # Whoever gave up holds up nobody else.
            third.__enter__()
    with second:
        pass
    for lock in (first, second, third):
        lock.close()


def test_is_free_after_an_error_inside(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "db", 0.0), opened(tmp_path / "db", 0.0)
    with pytest.raises(RuntimeError), first:
        raise RuntimeError
    with second:
        pass
    first.close()
    second.close()


def test_closing_gives_it_up(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "db", 0.0), opened(tmp_path / "db", 0.0)
    first.__enter__()
    first.close()
    with second:
        pass
    second.close()
    second.close()


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        opened(tmp_path / "missing" / "db")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "db-lock").mkdir()
    with pytest.raises((StoreUnavailableError, StoreReadOnlyError)):
        opened(tmp_path / "db")
