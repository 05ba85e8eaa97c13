"""What a rewritten function talks to while it is entered, runs, and is left at a stop."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import coroutine
from typing import Any

from msgspec import Raw

from flowstate.engines.kernel.operations import Failed, Operation, Outcome
from flowstate.engines.workflow.marking import Point

__all__ = ["Loop", "Visit"]


class Loop:
    """Goes over a sequence by index, so that its position can be stored.

    Attributes:
        over: the sequence.
        at: the index of the present item.
        raw: the sequence as JSON, once it is known.
    """

    __slots__ = ("at", "over", "raw")

    def __init__(self, over: Any, at: int = -1, raw: Raw | None = None) -> None:
        self.over = over
        self.at = at
        self.raw = raw

    def __iter__(self) -> "Loop":
        return self

    def __next__(self) -> Any:
        try:
            item = self.over[self.at + 1]
        except IndexError:
            raise StopIteration from None
        self.at += 1
        return item


class Visit:
    """One entry of a function.

    Attributes:
        to: the number of the stop that it goes to; 0: the beginning.
        names: what is alive there.
        data: of the instance.
        asks: what is to be done at the stop is asked for; else it is given its outcome.
        outcome: of the stop.
        points: what is known about the calls of marks.
        parked: the number of the stop that it was left at.
        operation: what is to be done there.
        has_arrived: the stop was reached.
        loops: by the number of their level.
        errors: that are handled, the same.
        exits: how a ``try`` was left whose ``finally`` runs: kind and value, the same.
        contexts: what errors that were stored were raised in.
    """

    __slots__ = (
        "asks",
        "contexts",
        "data",
        "errors",
        "exits",
        "has_arrived",
        "is_indexed",
        "loops",
        "names",
        "operation",
        "outcome",
        "parked",
        "points",
        "to",
    )
    error_class = BaseException

    def __init__(
        self,
        to: int,
        names: Mapping[str, Any],
        data: Any,
        points: Sequence[Point],
        is_indexed: Mapping[int, bool],
    ) -> None:
        self.to = to
        self.names = names
        self.data = data
        self.points = points
        self.is_indexed = is_indexed
        self.asks = False
        self.outcome: Outcome | None = None
        self.parked = 0
        self.operation: Operation | None = None
        self.has_arrived = False
        self.loops: dict[int, Loop] = {}
        self.errors: dict[int, BaseException] = {}
        self.exits: dict[int, tuple[str, Any]] = {}
        self.contexts: list[tuple[BaseException, BaseException | None]] = []

    @coroutine
    def park(self, number: int, _to: int) -> Iterator[None]:
        """Be left at a stop."""
        self.parked = number
        yield

    @coroutine
    def asked(self, operation: Operation, _to: int) -> Iterator[None]:
        """Take what is to be done, and be left."""
        self.operation = operation
        yield

    def arrive(self, _to: int) -> Any:
        """Give the outcome of the stop."""
        self.has_arrived = True
        self.contexts = []
        if isinstance(self.outcome, Failed):
            self._keep_context(self.outcome.error)
            raise self.outcome.error
        return self.outcome.value if self.outcome else None

    def _keep_context(self, error: BaseException) -> None:
        """Let what an error was raised in come from what is handled here.

        To raise it would put what is handled in its place.
        """
        handled, last = sys.exception(), error
        if error.__context__ is None or handled is None:
            return
        self.contexts = [(error, error.__context__)]
        while last.__context__ is not None and last is not handled:
            last = last.__context__
        if last is not handled:
            last.__context__ = handled

    def detach(self, error: BaseException) -> None:
        """Take what is handled here away from what an error comes from.

        The error is raised again where that is handled once more.
        """
        handled = [id(each) for each in self.errors.values()]
        while error.__context__ is not None and id(error.__context__) not in handled:
            error = error.__context__
        error.__context__ = None

    def over(self, level: int, items: Any) -> Loop:
        """Begin a loop."""
        loop = self.loops[level] = Loop(items if self.is_indexed[level] else list(items))
        return loop

    def again(self, level: int, *read: Any) -> Iterator[Any]:
        """Enter a loop, with what it goes over if that is read again.

        The first item stands for the present one.
        """
        loop = self.loops[level]
        for items in read:
            loop.over = items
        yield None
        yield from loop

    def caught(self, level: int) -> None:
        """Note the error that is handled."""
        error = sys.exception()
        if error is not None:
            self.errors[level] = error
        self.restore()

    def rethrow(self, level: int) -> None:
        """Raise the error again that is handled there, if there is one."""
        if (error := self.errors.get(level)) is not None:
            raise error

    def restore(self) -> None:
        """Give errors back what they were raised in; raising them again has changed it."""
        for error, context in self.contexts:
            error.__context__ = context
        if self.has_arrived:
            self.contexts = []  # From now on it is the user's code that raises.

    def failed(self, level: int) -> None:
        """Note that a region is left by an error."""
        error = sys.exception()
        if error is not None:
            self.errors[level] = error
        self.exits[level] = ("raise", None)

    def leave(self, level: int, kind: str, value: Any = None) -> Any:
        """Note how a region is left; return the value."""
        self.exits[level] = (kind, value)
        self.errors.pop(level, None)
        return value

    def left_by(self, level: int, kind: str) -> bool:
        """Return whether a region was left like that."""
        return self.exits[level][0] == kind

    def returned(self, level: int) -> Any:
        """Return the value that a region was left with."""
        return self.exits[level][1]
