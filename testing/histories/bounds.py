"""Strict serializability in linear time: can every commit be given a moment of its own?

Each commit happened at one moment between its invocation and its completion, and the moments
follow the order of the log. Everything that was observed narrows them: who saw revision r before
its successor s says that r had happened when the observation ended, and that s had not when it
began. The order is known, so one pass forward gives the earliest moment that a commit can have,
one pass backward the latest, and a history is good if and only if none of them cross.
"""

from collections.abc import Iterator, Sequence
from itertools import compress

from flowstate.testing.histories.history import Attempt, Refused, StateRead
from flowstate.testing.histories.indexed_log import IndexedLog, Window
from flowstate.testing.histories.violation import Operation, Violation

__all__ = ["Bounds"]

NEVER = 1 << 62


class Bounds:
    """Between which moments each commit of the log must have happened.

    Attributes:
        lower: by the place of a commit: not before.
        lower_by: because of which operation.
        upper: not after.
        upper_by: because of which operation.
    """

    def __init__(self, log: IndexedLog) -> None:
        self._log = log
        count = len(log.commits)
        self.lower = [0] * count
        self.upper = [NEVER] * count
        self.lower_by: list[Operation | None] = [None] * count
        self.upper_by: list[Operation | None] = [None] * count

    def not_before(self, place: int, moment: int, operation: Operation) -> None:
        """Note that a commit cannot have happened before ``moment``."""
        if moment > self.lower[place]:
            self.lower[place] = moment
            self.lower_by[place] = operation

    def not_after(self, place: int, moment: int, operation: Operation) -> None:
        """Note that a commit had happened at ``moment``."""
        if moment < self.upper[place]:
            self.upper[place] = moment
            self.upper_by[place] = operation

    def observe(
        self, seen: int, unseen: int, invoked: int, at: int, operation: Operation
    ) -> Violation | None:
        """Note an observation at one moment, when ``seen`` was there and ``unseen`` was not.

        Args:
            seen: a revision; 0: says nothing.
            unseen: a revision; 0: says nothing.
            invoked: when the observation began.
            at: when it ended.
            operation: for the message.

        Returns a violation if there cannot be such a moment, whenever it was.
        """
        commit_of = self._log.commit_of
        if seen:
            self.not_after(commit_of[seen], at, operation)
        if unseen:
            self.not_before(commit_of[unseen], invoked, operation)
            if seen and commit_of[seen] >= commit_of[unseen]:
                half = commit_of[seen] == commit_of[unseen]
                text = f"saw revision {seen}, but {unseen} was not there yet"
                if half:
                    text += ": half a commit"
                return Violation("G1" if half else "G4", text, (operation,))
        return None

    def observe_one_of(
        self, windows: Sequence[Window], invoked: int, at: int, operation: Operation
    ) -> Violation | None:
        """Note an observation as :meth:`observe` does, at one moment within one of some windows.

        A state that was forgotten and has begun again was not there several times. While more than
        one of these times is possible, nothing follows.
        """
        commit_of = self._log.commit_of
        begun = [(a, b) for a, b in windows if not a or self.lower[commit_of[a]] <= at]
        possible = [(a, b) for a, b in begun if not b or self.upper[commit_of[b]] >= invoked]
        if len(possible) > 1:
            return None
        # If none is possible, one of the others tells why.
        return self.observe(*(possible or begun or windows)[-1], invoked, at, operation)

    def conflicts(self) -> Iterator[Violation]:
        """Find the pairs of operations that leave a commit no moment to happen at."""
        latest_by = self._latest()
        earliest, earliest_by = 0, -1
        told: set[tuple[int, int]] = set()
        latest = self.upper
        crossing = [False] * len(latest)
        starts = [-1] * len(latest)
        for place, moment in enumerate(self.lower):
            if moment > earliest:
                earliest, earliest_by = moment, place
            starts[place] = earliest_by
            crossing[place] = earliest > latest[latest_by[place]]
        for place in compress(range(len(latest)), crossing):
            pair = starts[place], latest_by[place]
            if pair not in told:
                told.add(pair)
                yield self._violation(*pair)

    def _latest(self) -> list[int]:
        """Return for each commit the place of the one whose upper bound holds for it too."""
        places = [0] * len(self.upper)
        best = len(self.upper) - 1
        for place in range(len(self.upper) - 1, -1, -1):
            if self.upper[place] < self.upper[best]:
                best = place
            places[place] = best
        return places

    def _violation(self, low: int, high: int) -> Violation:
        """Put into words that commit ``low`` was too late, as ``high`` is not before it."""
        late, early = self.lower_by[low], self.upper_by[high]
        operations = tuple(each for each in (early, late) if each is not None)
        first, second, one = self._name(low), self._name(high), low == high
        begun, acknowledged = self._is_own(late, low), self._is_own(early, high)
        how = "acknowledged" if acknowledged else "seen"
        if begun and _is_refusal(early):
            text = f"a commit was refused because of {second}, and {first} was begun only later"
            return Violation("G2", text, operations)
        if begun:
            what = "its commit" if one else f"the commit of {first}"
            return Violation("G4", f"{second} {how} before {what} was begun", operations)
        if _is_refusal(late):
            text = f"a commit was refused as if {first} had not happened"
            return Violation("G2", text, operations)
        if one and not acknowledged and _ids_of(early) != _ids_of(late):
            return Violation("G1", f"{first} seen in part", operations)
        what = "" if one else f"{first} before it "
        text = f"{second} {how}, and {what}missed by an operation that began later"
        return Violation("G5", text, operations)

    def _name(self, place: int) -> str:
        _, first, last = self._log.commits[place]
        return f"revision {first}" if first == last else f"revisions {first}-{last}"

    def _is_own(self, operation: Operation | None, place: int) -> bool:
        """Return whether an operation is the commit itself, and not one that observed it."""
        token = self._log.commits[place][0]
        return isinstance(operation, Attempt) and operation.invoked.token == token


def _is_refusal(operation: Operation | None) -> bool:
    return isinstance(operation, Attempt) and isinstance(operation.outcome, Refused)


def _ids_of(operation: Operation | None) -> str | None:
    return operation.id if isinstance(operation, StateRead) else None
