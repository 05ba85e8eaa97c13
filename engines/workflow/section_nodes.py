"""What sections are linked to: where a thread stands, and where it goes on from there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import attrs
import msgspec
from msgspec import Raw, Struct

from flowstate import InvalidInputError, RetryPolicy, encoded
from flowstate.engines.kernel import operations
from flowstate.engines.kernel.code import Code, Stop
from flowstate.engines.kernel.errors import StoredError
from flowstate.engines.kernel.instance import DATA
from flowstate.engines.kernel.operations import Failed, Operation, Outcome, StepOptions
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.steps import is_async
from flowstate.engines.kernel.threads import NOTHING
from flowstate.engines.kernel.values import kept
from flowstate.engines.workflow.compiler.lookup import hints_of
from flowstate.ground.frozen import EMPTY

__all__ = [
    "Begin",
    "Branch",
    "Condition",
    "KEPT",
    "Kept",
    "Leave",
    "Node",
    "Now",
    "Place",
    "Run",
    "SetUp",
    "WaitUntil",
    "as_json",
    "check_all",
    "on_copy",
]

Condition = Callable[[Any], bool]
KEPT = "$wait"  # The name under which a frame has how far a wait with sources is.


class SetUp(Struct, frozen=True, omit_defaults=True):
    """What has come of setting a source up.

    Attributes:
        token: which messages are for this wait only.
        gave: what ``setup`` returned.
    """

    token: str = ""
    gave: Raw = NOTHING


class Kept(Struct, omit_defaults=True):
    """What a thread keeps while it stands at a wait with sources.

    Attributes:
        set_up: sources, by the names of their messages.
        handled: the name of the message that came; empty if the time has passed.
        error: what is to be raised when all is torn down.
    """

    set_up: dict[str, SetUp] = msgspec.field(default_factory=dict)
    handled: str = ""
    error: StoredError | None = None


@attrs.frozen
class Now:
    """What there is when a thread comes by: the data, and what it keeps; both may be changed."""

    data: Any
    kept: Kept


class Node:
    """A point to which a thread can come."""

    def leads(self) -> Iterable["Node"]:
        """Return where a thread can come to from here."""
        return ()


@attrs.define(eq=False)
class Leave(Node):
    """The end of a thread, with a value, or a function of the data that returns it."""

    value: Any

    def result(self, data: Any) -> Any:
        """Return the result."""
        return self.value(data) if callable(self.value) else self.value


@attrs.define(eq=False)
class Branch(Node):
    """Goes on with the first case whose condition is true."""

    cases: Sequence[tuple[Condition, Node]]
    otherwise: Node

    def next(self, now: Now) -> Node:
        """Return where a thread comes to from here."""
        found = (node for condition, node in self.cases if condition(now.data))
        return next(found, self.otherwise)

    def leads(self) -> Iterable[Node]:
        """Return where a thread can come to from here."""
        return *(node for _, node in self.cases), self.otherwise


@attrs.define(eq=False)
class Place(Node, ABC):
    """A stop.

    Attributes:
        name: of the stop.
        after: where a thread comes to then.
    """

    kind: ClassVar[str]
    name: str
    after: Node

    @abstractmethod
    def ask(self, now: Now) -> Operation:
        """Return what is to be done here."""

    @abstractmethod
    def take(self, now: Now, outcome: Outcome) -> Node | None:
        """Return where a thread comes to with an outcome; ``None``: it is to be done again."""

    def leads(self) -> Iterable[Node]:
        """Return where a thread can come to from here."""
        return (self.after,)

    def stop(self) -> Stop:
        """Return what is known about it."""
        return Stop(self.name, self.kind, is_open=False)


@attrs.define(eq=False)
class Begin(Place):
    """Begins a thread."""

    kind = "go"
    code: Code
    thread: Callable[[Any], str]

    def stop(self) -> Stop:
        """Return what is known about it."""
        return Stop(self.name, self.kind, is_open=False, runs=[self.code])

    def ask(self, now: Now) -> Operation:
        """Ask for the thread."""
        return operations.Go(self.name, self.code, EMPTY, self.thread(now.data))

    def take(self, _now: Now, outcome: Outcome) -> Node:
        """Go on."""
        if isinstance(outcome, Failed):
            raise outcome.error
        return self.after


@attrs.define(eq=False)
class WaitUntil(Place):
    """Waits for a condition, and changes the data when it is true."""

    kind = "until"
    condition: Condition
    then: Callable[[Any], object] | None

    def ask(self, now: Now) -> Operation:  # noqa: ARG002 - it is asked for later
        """Ask for the condition."""
        return operations.Until(self.name, self.condition)

    def take(self, now: Now, outcome: Outcome) -> Node:
        """Change the data."""
        if isinstance(outcome, Failed):
            raise outcome.error
        if self.then is not None:
            self.then(now.data)
        return self.after


class Changes(Struct, frozen=True):
    """What a step did to its copy of the data.

    Attributes:
        before: the data that it was given.
        after: the copy when it was done.
        fields: those that it changed.
        gave: what it returned.
    """

    before: Raw
    after: Raw
    fields: list[str]
    gave: Raw

    def apply(self, data: Any, kind: Any) -> bool:
        """Change data in the same way, unless one of the fields was changed meanwhile."""
        now, before, after = map(_fields, (encoded(DATA, data), self.before, self.after))
        if any(now.get(name) != before.get(name) for name in self.fields):
            return False
        for name in self.fields:
            now.pop(name, None)
            if name in after:
                now[name] = after[name]
        if self.fields:
            _become(data, decoded(kind, as_json(now)))
        return True


def as_json(value: Any) -> Raw:
    """Return JSON of what has JSON in it."""
    return Raw(msgspec.json.encode(value))


def _fields(raw: Raw) -> dict[str, Raw]:
    return decoded(dict[str, Raw], raw)  # type: ignore[no-any-return]


def _become(data: Any, new: Any) -> None:
    """Change data in place, so that it equals other data."""
    if isinstance(data, dict):
        data.clear()
        data.update(new)
        return
    names = getattr(data, "__struct_fields__", None) or getattr(data, "__dataclass_fields__", None)
    for name in names or [each.name for each in attrs.fields(type(data))]:
        setattr(data, name, getattr(new, name))


@attrs.define(eq=False)
class Run(Place):
    """Calls a function with a copy of the data."""

    kind = "step"
    data: Any
    call: Callable[[Any], Any]
    then: Callable[[Any, Any], object] | None
    retry: RetryPolicy | None
    timeout: timedelta | None

    def ask(self, now: Now) -> Operation:
        """Ask for the step."""
        before = encoded(DATA, now.data)
        seconds = self.timeout.total_seconds() if self.timeout else None
        options = StepOptions(self.retry, seconds, gives=Changes)
        call = on_copy(self.call, self.data, before, partial(self._changes, before))
        return operations.Run(self.name, call, options=options)

    def _changes(self, before: Raw, copy: Any, gave: Any) -> Raw:
        after, plain = encoded(DATA, copy), encoded(DATA, decoded(self.data, before))
        one, other = _fields(plain), _fields(after)
        fields = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        result = kept("result", gave) if self.then else NOTHING
        return as_json(Changes(before, after, fields, result))

    def take(self, now: Now, outcome: Outcome) -> Node | None:
        """Change the data as the step did."""
        if isinstance(outcome, Failed):
            raise outcome.error
        changes: Changes = outcome.value
        if not changes.apply(now.data, self.data):
            return None
        if self.then is not None:
            gives = hints_of(self.call).get("return", Any)
            self.then(now.data, decoded(gives, changes.gave))
        return self.after


def on_copy(
    call: Callable[[Any], Any], kind: Any, before: Raw, then: Callable[[Any, Any], Any]
) -> Callable[[], Any]:
    """Return a step that gives a function a copy of the data, and then both to another one."""

    async def wait() -> Any:
        copy = decoded(kind, before)
        return then(copy, await call(copy))

    def work() -> Any:
        copy = decoded(kind, before)
        return then(copy, call(copy))

    return wait if is_async(call) else work


def check_all(field: str, given: Iterable[object], kind: Any) -> None:
    """Raise ``InvalidInputError`` unless all are of a kind."""
    for each in given:
        if not isinstance(each, kind):
            raise InvalidInputError(field, f"cannot have a {type(each).__name__}")
