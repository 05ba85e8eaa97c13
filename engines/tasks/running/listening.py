"""Listens for events: what a task that listens keeps, and how it goes on with each event."""

import re
from bisect import insort
from collections.abc import Awaitable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET, Struct

from flowstate.engines.events.consuming import Evaluate, Filter, Key, Strategy
from flowstate.engines.events.publishing import EVENTS
from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Events, Published
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.templates import Program, pieces, program_of

__all__ = ["Item", "Listening", "Seen", "begin", "strategy_of", "tests_of"]

LIKE = re.compile(r"[\\^$*+?()\[\]{}|]")  # What a regular expression has besides plain text.
MOST_TAKEN = 1_000  # Events that a thread remembers one by one.
MOST_BYTES = 256 * 1024  # Of what one task has gathered.

Read = Literal["data", "envelope", "raw"]


class Evaluating(Protocol):
    """The scope of a task."""

    def evaluate(self, program: str, value: Any) -> Awaitable[Any]:
        """Return what an expression gives, or raise ``TaskError``."""

    def template(self, written: Any, value: Any) -> Awaitable[Any]:
        """Return a part of the document with all expressions in it evaluated."""


class Seen(Struct, omit_defaults=True):
    """Which events a thread of control has taken, so that it takes none twice.

    Attributes:
        after: events up to this revision do not count; ``None``: up to the start of the instance.
        taken: the revisions of those that it has taken, in order.
    """

    after: int | None = None
    taken: list[int] = msgspec.field(default_factory=list)

    def has(self, rev: int) -> bool:
        """Return whether an event does not count any more."""
        return rev in self.taken or rev <= (self.after or 0)

    def take(self, *revs: int) -> None:
        """Note events. Of many, those before the oldest that is remembered do not count either."""
        for rev in revs:
            if not self.has(rev):
                insort(self.taken, rev)
        while len(self.taken) > MOST_TAKEN:
            self.after = max(self.after or 0, self.taken.pop(0))

    def joined(self, others: Iterable["Seen"]) -> "Seen":
        """Return what a thread has seen after its branches have ended."""
        all_ = [self, *others]
        floors = [each.after for each in all_ if each.after is not None]
        joined = Seen(max(floors, default=None))
        joined.take(*(rev for each in all_ for rev in each.taken))
        return joined


class Item(Struct, frozen=True):
    """An event to be iterated over, as it is read."""

    value: Any


class Listening(Struct, omit_defaults=True):
    """How far a task has come that listens; the stored form.

    Attributes:
        strategy: which events it wants.
        read: what it keeps of each.
        is_iterated: tasks run for each event, before the next one is taken.
        output: what it has gathered.
        size: bytes of that, as JSON.
        queue: events that it was given and has not looked at.
        cursor: the revision of the last one that it has looked at.
    """

    strategy: Strategy
    read: Read = "data"
    is_iterated: bool = False
    output: list[Any] = msgspec.field(default_factory=list)
    size: int = 0
    queue: list[Published] = msgspec.field(default_factory=list)
    cursor: int | None = None

    async def next(self, seen: Seen, keys: dict[str, Any], scope: Evaluating) -> Item | None:
        """Take the events of the queue, up to one to be iterated over, which is returned.

        Args:
            seen: of the thread; is changed.
            keys: by which events correlate; are changed.
            scope: of the task.

        Raises:
            TaskError: ``expression`` of ``until``; or ``runtime``, if it has gathered too much.
        """
        while self.queue:
            published = self.queue.pop(0)
            self.cursor = published.rev
            if seen.has(published.rev):
                continue
            found = await self.strategy.offer(published.event, keys, tests_of(scope))
            if not found:
                continue
            seen.take(published.rev)
            if found == "wanted":
                value = _read(published.event, self.read)
                if self.is_iterated:
                    return Item(value)
                self.append(value)
            if await self.is_over(scope):
                self.queue = []
        return None

    def append(self, value: Any) -> None:
        """Gather what came of an event.

        Raises:
            TaskError: ``runtime``: it is too much.
        """
        if self.strategy.until_program == "false":
            return  # It never ends, so nothing can come of it.
        self.size += len(msgspec.json.encode(value))
        if self.size > MOST_BYTES:
            raise TaskError.of("runtime", f"a task can gather {MOST_BYTES} bytes of events")
        self.output.append(value)

    async def is_over(self, scope: Evaluating) -> bool:
        """Return whether it has all that it wants.

        Raises:
            TaskError: ``expression`` of ``until``.
        """
        return await self.strategy.is_met(self.output, scope.evaluate)

    def wait(
        self, name: str, seen: Seen, keys: Mapping[str, Any], timeout: timedelta | None = None
    ) -> Wait:
        """Return what waits for the next events; the outcome is for the queue."""
        after = seen.after if self.cursor is None else self.cursor
        fields, taken = self.strategy.found_by(keys), seen.taken
        return Wait(name, [Events(EVENTS, *fields, after=after, without=taken)], timeout)


async def begin(
    listen: Mapping[str, Any], scope: Evaluating, given: Any, *, is_iterated: bool
) -> Listening:
    """Return what a task keeps that begins to listen.

    Args:
        listen: of the task.
        scope: of the task.
        given: the input of the task, transformed.
        is_iterated: whether it has ``foreach``.

    Raises:
        TaskError: ``expression``.
    """
    strategy = await strategy_of(listen["to"], scope, given)
    return Listening(strategy, listen.get("read", "data"), is_iterated)


async def strategy_of(to: Mapping[str, Any], scope: Evaluating, given: Any) -> Strategy:
    """Return a strategy as it is written in a document, its constants evaluated.

    Raises:
        TaskError: ``expression``.
    """
    if "any" not in to:
        written = to["all"] if "all" in to else [to["one"]]
        return Strategy("all", [await _filter(each, scope, given) for each in written])
    strategy = Strategy("any", [await _filter(each, scope, given) for each in to["any"] or ()])
    until = to.get("until")
    if isinstance(until, Mapping):
        strategy.until = await strategy_of(until, scope, given)
    elif until is not None:
        strategy.until_program = str(program_of(until if isinstance(until, str) else "false"))
    return strategy


async def _filter(written: Mapping[str, Any], scope: Evaluating, given: Any) -> Filter:
    found = Filter({}, {}, {}, {})
    for name, value in written["with"].items():
        kind, made = await _condition(name, value, scope, given)
        getattr(found, kind)[name] = made
    for name, key in (written.get("correlate") or {}).items():
        expect = await scope.template(key["expect"], given) if "expect" in key else UNSET
        found.keys[name] = Key(str(program_of(key["from"])), expect)  # type: ignore[index]
    return found


async def _condition(name: str, value: Any, scope: Evaluating, given: Any) -> tuple[str, Any]:
    """Return how an attribute is compared, and with what.

    An expression that gives a text or a number for the input of the task is a constant. All other
    ones are tried on each event.
    """
    parts = pieces(value) if isinstance(value, str) else ()
    if len(parts) == 1 and isinstance(parts[0], Program):
        found = None if name == "data" else await _constant(parts[0], scope, given)
        return ("tests", str(parts[0])) if found is None else ("equal", found)
    if name != "data" and len(parts) == 1 and LIKE.search(value):
        return "like", value
    return "equal", await scope.template(value, given)


async def _constant(program: str, scope: Evaluating, given: Any) -> str | int | float | None:
    try:
        found = await scope.evaluate(program, given)
    except TaskError:
        return None  # It may be one over the attribute.
    return found if type(found) in (str, int, float) else None


def tests_of(scope: Evaluating) -> Evaluate:
    """Return what evaluates expressions over events, for which a failure is no error."""

    async def evaluate(program: str, value: Any) -> Any:
        try:
            return await scope.evaluate(program, value)
        except TaskError as error:
            raise ExpressionError(program, error.detail) from error

    return evaluate


def _read(event: Mapping[str, Any], read: Read) -> Any:
    if read == "envelope":
        return event
    data = event.get("data", event.get("data_base64"))
    if read == "data" or data is None or isinstance(data, str):
        return data
    return msgspec.json.encode(data).decode()
