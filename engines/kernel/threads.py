"""Threads of an instance: where each stands, and what it waits for; their stored form."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from flowstate.engines.kernel.code import Frame
from flowstate.engines.kernel.errors import StoredError

__all__ = ["Children", "Ended", "MAIN", "NOTHING", "Thread", "Threads"]

MAIN = "main"
NOTHING = Raw(b"null")

Doing = Literal["go", "step", "pause", "wait", "until", "join", "each", "ended"]


class Ended(Struct, frozen=True, omit_defaults=True):
    """How a stop, a branch or a thread has ended: with a value as JSON, or with an error."""

    gave: Raw = NOTHING
    error: StoredError | None = None


class Children(Struct, omit_defaults=True):
    """The children that a thread waits for: little of each, since there may be thousands.

    Attributes:
        total: how many there are to be.
        since: the last revision before the first of them was started, or started again.
        started: how many were started.
        done: how many of them have ended.
        before: all of these have ended that have a lower number,
        ended: and of the others those with a bit in this hexadecimal number.
        failed: the first one that has come to no result.
        error: of that one.
        stopping: the others are to be cancelled, and no more are started.
        told: they were told.
    """

    total: int
    since: int = 0
    started: int = 0
    done: int = 0
    before: int = 0
    ended: str = "0"
    failed: str = ""
    error: StoredError | None = None
    stopping: bool = False
    told: bool = False

    @property
    def are_over(self) -> bool:
        """Whether none of them runs or is to be started."""
        return self.done == (self.started if self.stopping else self.total)

    def has_ended(self, child: str) -> bool:
        """Return whether a child was counted."""
        number = _number(child) - self.before
        return number < 0 or bool(int(self.ended, 16) >> number & 1)

    def count(self, child: str, error: StoredError | None) -> None:
        """Count a child that has ended, once.

        Args:
            child: its id.
            error: why it has no result.
        """
        if self.has_ended(child):
            return
        bits = int(self.ended, 16) | 1 << _number(child) - self.before
        ones = (~bits & bits + 1).bit_length() - 1
        self.ended, self.before = f"{bits >> ones:x}", self.before + ones
        self.done += 1
        if error is not None and self.error is None and not self.stopping:
            self.failed, self.error = child, error


def _number(child: str) -> int:
    return int(child.rpartition(".")[2])


# does   means                                           left by
# go     it has not asked yet what is to be done at its  asked → step, wait, until, join, each; what
#        stop, or stands at the beginning                takes no time → go; it returns → ended
# step   its step runs, or is to run                     it gave or is exhausted → go; it failed →
#                                                        pause
# pause  its step has failed, and is tried again later   time → step
# wait   for a message, or a time                        either → go
# until  for a condition of the data                     it is true → go
# join   for its branches                                enough have ended → go
# each   for its children                                all have ended → go
# ended  it has an outcome                               taken by the join → gone
#
# What it is owed (a cancellation, the timeout of the whole) is raised at its stop: → go, from
# ``join`` and ``each`` as soon as the branches or children have ended.
class Thread(Struct, omit_defaults=True):
    """A thread of an instance, or a branch of a join.

    Attributes:
        frames: the stack, the outermost first. A branch that is a single operation has none.
        does: see the table.
        passed: how many stops it has passed: makes keys differ.
        failures: of the present step.
        text: the last failure.
        progress: that the step has reported.
        topics: that it waits for outside of the instance.
        since: events that were published from then on count.
        scanned: of all events up to this revision none is for it that it was not given.
        looks: how many times it has looked whether what it waits for has ended and told nothing.
        look_at: when it does so next.
        at: when it goes on at the latest: the next attempt, or the end of a wait.
        parent: the thread that waits for this branch.
        index: of this branch.
        branch: the name of the operation that this branch is.
        owed: what is to be raised at its stop.
        put_off: what it is owed as soon as it has left shielded code.
        told: it was cancelled once; it is not cancelled again while it cleans up.
        picked: of a join: the branches that have given a value, in the order of their coming.
        error: of a join: the first error of a branch.
        children: of ``each``.
        outcome: of a thread that has ended.
    """

    frames: Sequence[Frame] = ()
    does: Doing = "go"
    passed: int = 0
    failures: int = 0
    text: str = ""
    progress: Raw = NOTHING
    topics: tuple[str, ...] = ()
    since: datetime | None = None
    scanned: int = 0
    looks: int = 0
    look_at: datetime | None = None
    at: datetime | None = None
    parent: str = ""
    index: int = 0
    branch: str = ""
    owed: Literal["", "cancel", "timeout"] = ""
    put_off: Literal["", "cancel", "timeout"] = ""
    told: bool = False
    picked: list[int] = msgspec.field(default_factory=list)
    error: StoredError | None = None
    children: Children | None = None
    outcome: Ended | None = None

    @property
    def stop(self) -> str:
        """The name of the stop in the innermost frame; empty at the beginning."""
        return self.frames[-1].stop if self.frames else ""

    def leave_stop(self) -> None:
        """Note that the stop is passed, and forget what belongs to it."""
        self.does, self.passed, self.failures, self.text = "go", self.passed + 1, 0, ""
        self.at = self.error = self.children = self.since = self.look_at = None
        self.looks, self.topics, self.scanned = 0, (), 0
        self.progress = NOTHING
        self.picked = []


Threads = dict[str, Thread]
