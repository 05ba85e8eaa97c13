"""What makes a function a mark, and what the compiler knows about its calls."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, TypeVar

import attrs

from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.operations import Operation, StepOptions
from flowstate.engines.workflow.schemas import schemas_of

__all__ = ["Defined", "Mark", "MarkError", "Point", "mark", "mark_of", "outside"]

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__flowstate_mark__"
OPTIONS = StepOptions()
STEP = ("retry", "timeout", "heartbeat_timeout", "local", "transaction")
OWN = (*STEP, "name", "thread", "limit", "strict", "abandon")


class MarkError(TypeError):
    """A mark, or a definition, was called as if it were a plain function."""


class Defined(Code, ABC):
    """Code that a mark can name: a workflow, or a helper.

    Attributes:
        has_instances: it is a workflow.
    """

    has_instances = False

    @abstractmethod
    def arguments(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Return arguments by name, without the data, which it shares.

        Raises:
            TypeError: they do not fit.
        """

    def schemas(self) -> dict[str, Any]:
        """Return JSON Schemas by ``data``, ``arguments``, ``messages``, ``updates``, ``result``.

        Arguments, messages and updates are by name; an update has what it ``takes`` and what it
        ``gives``. ``$defs`` has what all these refer to.

        Raises:
            TypeError: a type has no JSON Schema.
        """
        return schemas_of(self)


@attrs.define
class Point:
    """What the compiler knows about one call of a mark: a stop, or a branch of one.

    Attributes:
        name: of it.
        gives: the type of its value.
        options: of a step without options of its own.
    """

    name: str
    gives: Any = Any
    options: StepOptions = OPTIONS

    def set_type(self, gives: Any) -> None:
        """Set the type."""
        self.gives = gives
        self.options = StepOptions(gives=gives)


@attrs.frozen
class Mark:
    """What makes a function a mark.

    Attributes:
        name: of the function.
        kind: of the stop.
        takes_code: its first argument is a function, or a definition, that gives it its name, and
            that is given the others.
        options: arguments that are its own.
    """

    name: str
    kind: str
    takes_code: bool
    options: frozenset[str]

    @property
    def is_join(self) -> bool:
        """Whether it has branches."""
        return self.kind == "join"


def mark_of(thing: Any) -> Mark | None:
    """Return what makes a function a mark, or ``None`` if it is not one."""
    found = getattr(thing, MARK, None)
    return found if isinstance(found, Mark) else None


def mark(
    kind: str, operation: Callable[..., Operation], *, takes_code: bool = False
) -> Callable[[F], F]:
    """Decorate a function as a mark, with what makes its operation from the point and arguments."""

    def marked(function: F) -> F:
        options = frozenset(OWN) & {*signature(operation).parameters, "name"}
        setattr(function, MARK, Mark(function.__name__, kind, takes_code, options))
        function.operation = operation  # type: ignore[attr-defined] # compiled code calls it
        return function

    return marked


def outside(name: str) -> MarkError:
    """Return what a mark raises that is called, since compiled code never calls it."""
    return MarkError(f"{name}(...) works only within a function with @workflow or @helper")
