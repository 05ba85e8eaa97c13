"""What a worker executes and when, written so that it outlives the worker.

Each line is one write to a file that is only appended to: a killed process leaves no half of it.
The times are of the monotonic clock, which all processes of a machine share.
"""

import itertools
import os
import time
from pathlib import Path

from msgspec import Struct

from flowstate import State
from flowstate.recovery import attempt

__all__ = ["Entry", "Execution", "Journal", "read_journal"]


class Execution(Struct):
    """One call of a flow.

    Attributes:
        worker: the name of the engine.
        id: of the state.
        rev: that was executed.
        attempt: its number; 0 the first time.
        began: in nanoseconds.
        ended: when the flow returned or raised; ``None`` when that was never written.
        waited_since: when the flow gave the store the commit after which it did nothing more: its
            step was done, or that of another worker, or it was cancelled or killed; ``None`` when
            there is none.
    """

    worker: str
    id: str
    rev: int
    attempt: int
    began: int
    ended: int | None = None
    waited_since: int | None = None


class Journal:
    """The file of one worker."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = itertools.count()

    def begin(self, state: State) -> "Entry":
        """Note that the execution of a revision begins."""
        entry = Entry(self, next(self._numbers))
        self.write("begin", entry.number, state.id, state.rev, attempt(state))
        return entry

    def write(self, word: str, *words: object) -> None:
        """Add a line that says when."""
        line = " ".join(map(str, (word, time.monotonic_ns(), *words)))
        os.write(self._file, f"{line}\n".encode())


class Entry:
    """An execution that is under way."""

    def __init__(self, journal: Journal, number: int) -> None:
        self._journal = journal
        self.number = number

    def commits(self) -> None:
        """Note that the flow waits for the store's verdict from now on."""
        self._journal.write("waits", self.number)

    def goes_on(self) -> None:
        """Note that the flow has the verdict, and has more to do."""
        self._journal.write("goes_on", self.number)

    def end(self) -> None:
        """Note that the execution is over."""
        self._journal.write("end", self.number)


def read_journal(path: Path) -> list[Execution]:
    """Return what a worker has written."""
    executions: dict[str, Execution] = {}
    for line in path.read_text().splitlines():
        word, when, number, *words = line.split()
        if word == "begin":
            id, rev, attempts = words
            executions[number] = Execution(path.stem, id, int(rev), int(attempts), int(when))
        elif word == "end":
            executions[number].ended = int(when)
        else:
            executions[number].waited_since = int(when) if word == "waits" else None
    return list(executions.values())
