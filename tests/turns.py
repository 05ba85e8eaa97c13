"""Tests that are marked ``alone`` run while no other worker of the run has a test."""

import contextlib
import fcntl
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

__all__ = ["Turns"]

# Files to lock, which are there anyway; nobody writes them.
ROOM = Path(__file__)
DOOR = ROOM.with_name("conftest.py")


class Turns:
    """A pytest plugin for each worker of a run with several.

    A test that is alone waits at the door until the room is empty, and keeps others from it
    meanwhile. The system lets go of both when a worker dies.
    """

    # Before the plugin for timeouts looks at its watch.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run a test when it is its turn."""
        with _turn(is_alone=item.get_closest_marker("alone") is not None):
            return (yield)


@contextlib.contextmanager
def _turn(*, is_alone: bool) -> Iterator[None]:
    with DOOR.open() as door, ROOM.open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
