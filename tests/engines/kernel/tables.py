"""Code written by hand as a table: what is asked for at each stop, and where that leads."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import attrs
import msgspec
from msgspec import Raw

from flowstate.engines.kernel.code import (
    At,
    Code,
    CodeOptions,
    Frame,
    MisfitError,
    Raised,
    Reached,
    Returned,
    Stop,
)
from flowstate.engines.kernel.operations import (
    Failed,
    Join,
    Operation,
    Outcome,
    Run,
    StepOptions,
    Wait,
)

__all__ = ["Ask", "Done", "Next", "Table", "Then", "join", "line", "run", "shown", "wait"]

Names = dict[str, Any]


@attrs.frozen
class Done:
    """The code returns a value."""

    value: Any = None


Next = str | Done
Ask = Callable[[Names, Any], Operation]
Then = Callable[[Names, Any, Any], Next]


@attrs.define(eq=False)
class Table:
    """Code of named stops. What it raises is raised by the code.

    Args:
        name: of the code.
        table: by name of a stop, what is asked for there, and the function that is given what that
            gave, changes names and data, and returns the next stop.
        first: the same for the beginning.
        catches: by name of a stop, the function that is given the error that was raised there.
    """

    name: str
    table: Mapping[str, tuple[Ask, Then]]
    first: Callable[[Names, Any], Next] | None = None
    catches: Mapping[str, Then] = attrs.field(factory=dict)
    data: Any = dict
    gives: Any = Any
    version: int = 0
    takes: Mapping[str, Any] = attrs.field(factory=dict)
    uses: Mapping[str, Code] = attrs.field(factory=dict)
    options: CodeOptions = attrs.field(factory=CodeOptions)
    stops: Mapping[str, Stop] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stops = {name: Stop(name, "step") for name in self.table}

    def begin(self, frame: Frame, data: Any) -> Reached:
        first = self.first or (lambda _, __: next(iter(self.table)))
        return self._go(lambda names: first(names, data), frame)

    def ask(self, frame: Frame, data: Any) -> Operation:
        self.check(frame)
        return self.table[frame.stop][0](self._names(frame), data)

    def go_on(self, frame: Frame, data: Any, outcome: Outcome) -> Reached:
        self.check(frame)
        if not isinstance(outcome, Failed):
            then = self.table[frame.stop][1]
            return self._go(lambda names: then(names, data, outcome.value), frame)
        error = outcome.error
        if frame.stop in self.catches:
            return self._go(lambda names: self.catches[frame.stop](names, data, error), frame)
        return Raised(error)

    def check(self, frame: Frame) -> None:
        if frame.stop and frame.stop not in self.table:
            raise MisfitError(f"{self.name} has no stop {frame.stop!r}")

    def _names(self, frame: Frame) -> Names:
        return {name: msgspec.json.decode(raw) for name, raw in frame.names.items()}

    def _go(self, then: Callable[[Names], Next], frame: Frame) -> Reached:
        names = self._names(frame)
        try:
            reached = then(names)
        except BaseException as error:  # noqa: BLE001 - it is what the code raises
            return Raised(error)
        if isinstance(reached, Done):
            return Returned(reached.value)
        stored = {name: Raw(msgspec.json.encode(value)) for name, value in names.items()}
        return At(Frame(self.name, reached, stored))


def line(
    name: str,
    *asks: Callable[[Names, Any], Operation],
    catch: bool = False,
    stops: str = "abcdefgh",
    **options: Any,
) -> Table:
    """Return code that does one thing after the other, and returns what they gave.

    Args:
        name: of the code.
        asks: what is asked for at the stops a, b, c and so on.
        catch: errors count as what the stop gave, by their class.
        stops: the names of the stops.
        options: of the table.
    """
    names = stops[: len(asks)]

    def then(place: int) -> Then:
        def go_on(_: Names, data: Any, value: Any) -> Next:
            data.setdefault(name, []).append(shown(value))
            return names[place + 1] if place + 1 < len(names) else Done(data[name])

        return go_on

    table = {
        stop: (ask, then(place)) for place, (stop, ask) in enumerate(zip(names, asks, strict=True))
    }
    catches = {stop: then(place) for place, stop in enumerate(names)} if catch else {}
    return Table(name, table, catches=catches, **options)


def shown(value: Any) -> Any:
    """Return what JSON can have of a value."""
    if isinstance(value, BaseException):
        cause = value.__cause__
        return f"{type(value).__name__}" + (f" of {type(cause).__name__}" if cause else "")
    return msgspec.to_builtins(value)


def run(name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Ask:
    """Return what asks for a step."""
    return lambda _, __: Run(name, call, args, options=StepOptions(**options))


def wait(name: str, *sources: Any, seconds: float | None = None) -> Ask:
    """Return what asks for messages."""
    timeout = None if seconds is None else timedelta(seconds=seconds)
    return lambda _, __: Wait(name, sources, timeout)


def join(name: str, *asks: Ask, wanted: int | None = None, strict: bool | None = None) -> Ask:
    """Return what asks for several things at once."""
    return lambda n, d: Join(name, [ask(n, d) for ask in asks], wanted, strict)
