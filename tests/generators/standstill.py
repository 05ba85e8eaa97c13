"""Servers that stand still: all of their processes are stopped, and TCP stays open."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

__all__ = ["standing_still"]


class Running(Protocol):
    """A server of our own."""

    @property
    def pid(self) -> int:
        """Its first process."""


@contextlib.contextmanager
def standing_still(server: Running) -> Iterator[None]:
    """Stop a server with all its children, and let it go on in the end."""
    stopped = [server.pid]
    os.kill(server.pid, signal.SIGSTOP)  # From here on it starts no further process.
    stopped += _children(server.pid)
    for pid in stopped[1:]:
        _send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(stopped):
            _send(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for listed in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listed.read_text().split()
    ]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
