"""What became of each commit: as it was recorded, and as those who cancelled it were told."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from flowstate.testing.histories.history import Failed, Invoked, Record, Unknown

__all__ = ["Ledger"]


class Ledger:
    """Stands between recorders and what takes their records.

    Args:
        record: takes each record.
    """

    def __init__(self, record: Callable[[Record], object]) -> None:
        self._record = record
        self._numbers = count()
        self._prefix = secrets.token_hex(8)
        self._tokens: dict[asyncio.Task[Any], str] = {}
        self._sent: dict[str, int] = {}
        self._unknown: set[int] = set()

    def token(self) -> str:
        """Make a token for what the current task commits."""
        token = f"{self._prefix}-{next(self._numbers)}"
        task = asyncio.current_task()
        if task in self._tokens:
            self._tokens[task] = token
        return token

    def record(self, record: Record) -> None:
        """Pass on; remember what the tasks that may be cancelled have sent."""
        if isinstance(record, Invoked) and record.token in self._tokens.values():
            self._sent[record.token] = record.op
        elif isinstance(record, Unknown):
            self._unknown.add(record.op)
        self._record(record)

    @contextlib.contextmanager
    def following(self, task: "asyncio.Task[Any]") -> Iterator[None]:
        """Follow what a task commits."""
        self._tokens[task] = ""
        try:
            yield
        finally:
            self._sent.pop(self._tokens.pop(task), None)

    def deny(self, task: "asyncio.Task[Any]") -> None:
        """Record that a task was told that its commit did not happen."""
        op = self._sent.get(self._tokens[task])
        if op in self._unknown:
            self._record(Failed(op, time.monotonic_ns()))
