"""What a definition writes where it stops: ``await step(...)``, ``await wait(...)``, ``go(...)``.

The compiler puts its own code in place of these calls, so that the functions here never run.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from inspect import signature
from operator import itemgetter
from typing import Any, TypeVar, overload

import attrs
from msgspec import Struct

from flowstate import RetryPolicy
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.operations import (
    Call,
    Each,
    Go,
    Join,
    Operation,
    Run,
    StepOptions,
    Until,
    Wait,
)
from flowstate.engines.workflow.schemas import schemas_of

__all__ = [
    "Defined",
    "Mark",
    "MarkError",
    "Point",
    "Timeout",
    "all_of",
    "any_of",
    "each",
    "first",
    "go",
    "mark_of",
    "sleep",
    "step",
    "sub",
    "until",
    "wait",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
MARK = "__flowstate_mark__"
OPTIONS = StepOptions()
STEP = ("retry", "timeout", "heartbeat_timeout", "local", "transaction")
OWN = (*STEP, "name", "thread", "limit", "strict", "abandon")


class MarkError(TypeError):
    """A mark, or a definition, was called as if it were a plain function."""


class Timeout(Struct, frozen=True, kw_only=True):
    """Among what ``wait`` waits for: the time after which it gives a ``Timeout()``.

    Args:
        weeks: of the time, from 0, as are the others; they are added.
        days: the same.
        hours: the same.
        minutes: the same.
        seconds: the same.
    """

    weeks: float = 0
    days: float = 0
    hours: float = 0
    minutes: float = 0
    seconds: float = 0

    @property
    def time(self) -> timedelta:
        """How long it is."""
        return timedelta(self.days, self.seconds, 0, 0, self.minutes, self.hours, self.weeks)


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


def _mark(
    kind: str, operation: Callable[..., Operation], *, takes_code: bool = False
) -> Callable[[F], F]:
    def marked(function: F) -> F:
        options = frozenset(OWN) & {*signature(operation).parameters, "name"}
        setattr(function, MARK, Mark(function.__name__, kind, takes_code, options))
        function.operation = operation  # type: ignore[attr-defined] # compiled code calls it
        return function

    return marked


def _outside(name: str) -> MarkError:
    return MarkError(f"{name}(...) works only within a function with @workflow or @helper")


def _span(time: float | timedelta) -> timedelta:
    if isinstance(time, timedelta):
        return time
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise TypeError(f"a time is seconds or a timedelta, not {time!r}")
    return timedelta(seconds=time)


def _seconds(time: float | timedelta | None) -> float | None:
    return None if time is None else _span(time).total_seconds()


def _run(
    point: Point,
    call: Callable[..., Any],
    /,
    *args: Any,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    heartbeat_timeout: float | timedelta | None = None,
    local: bool = False,
    transaction: bool = False,
    **kwargs: Any,
) -> Operation:
    options, silence = point.options, heartbeat_timeout
    if retry is not None or timeout is not None or silence is not None or local or transaction:
        options = StepOptions(
            retry, _seconds(timeout), local, point.gives, transaction, _seconds(silence)
        )
    return Run(point.name, call, args, kwargs, options)


@overload
def step(
    call: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    name: str = ...,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    heartbeat_timeout: float | timedelta | None = None,
    local: bool = False,
    transaction: bool = False,
    **kwargs: Any,
) -> Awaitable[T]: ...
@overload
def step(
    call: Callable[..., T],
    *args: Any,
    name: str = ...,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    heartbeat_timeout: float | timedelta | None = None,
    local: bool = False,
    transaction: bool = False,
    **kwargs: Any,
) -> Awaitable[T]: ...
@_mark("step", _run, takes_code=True)
def step(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a function that has effects: a ``def`` in a worker thread, or an ``async def``.

    Args:
        call: the function.
        *args: its arguments. They are evaluated for every attempt, so they must change nothing.
        name: of the stop, a literal; that of the function otherwise.
        retry: of failures; the policy of the workflow otherwise.
        timeout: of one attempt, in seconds or as a ``timedelta``.
        heartbeat_timeout: the attempt has failed if it gives no heartbeat for so long: see
            :func:`current_step`.
        local: it is cheap and pure, and needs no commit of its own.
        transaction: it runs in a transaction of the store, as does the next place.
        **kwargs: more of its arguments.

    Raises:
        StepFailed: it failed, and is not tried again.
    """
    raise _outside("step")


def _wait(
    point: Point,
    /,
    *sources: Any,
    timeout: float | timedelta | None = None,
    lookback: float | timedelta = 0,
) -> Operation:
    times = [each.time for each in sources if isinstance(each, Timeout)]
    others = [each for each in sources if not isinstance(each, str | Timeout)]
    return Wait(point.name, others, _shortest(times, timeout), _span(lookback))


def _shortest(times: Sequence[timedelta], timeout: float | timedelta | None) -> timedelta | None:
    if times or timeout is None:
        return min(times, default=None)
    return _span(timeout)


@overload
def wait(
    *sources: type[T],
    name: str = ...,
    timeout: float | timedelta | None = None,
    lookback: float | timedelta = 0,
) -> Awaitable[T]: ...
@overload
def wait(
    *sources: Any,
    name: str = ...,
    timeout: float | timedelta | None = None,
    lookback: float | timedelta = 0,
) -> Awaitable[Any]: ...
@_mark("wait", _wait)
def wait(
    *sources: Any,
    name: str = "",
    timeout: float | timedelta | None = None,
    lookback: float | timedelta = 0,
) -> Any:
    """Wait for the first of some messages, events and results of other instances.

    Args:
        *sources: classes of messages, ``Event(...)``, ``Result(...)``. A text before them names the
            stop; after the time of a ``Timeout`` among them it gives a ``Timeout()``.
        name: of the stop, a literal; the names of the classes otherwise.
        timeout: after which it raises, in seconds or as a ``timedelta``.
        lookback: how long before this wait an event may have been published, the same.

    Raises:
        TimeoutError: nothing has come within ``timeout``.
        WorkflowFailed: the instance of a ``Result`` has failed.
        WorkflowCancelled: it was cancelled.
    """
    raise _outside("wait")


def _sleep(point: Point, time: float | timedelta, /) -> Operation:
    return Wait(point.name, (), _span(time))


@_mark("wait", _sleep)
def sleep(time: float | timedelta, *, name: str = "") -> Awaitable[None]:
    """Wait for seconds, or for a ``timedelta``."""
    raise _outside("sleep")


def _until(point: Point, condition: Callable[[Any], bool], /) -> Operation:
    return Until(point.name, condition)


@_mark("until", _until)
def until(condition: Callable[[Any], bool], *, name: str = "") -> Awaitable[None]:
    """Wait until a condition of the data is true."""
    raise _outside("until")


def _sub(point: Point, code: Defined, /, *args: Any, **kwargs: Any) -> Operation:
    return Call(point.name, code, code.arguments(*args, **kwargs))


@_mark("call", _sub, takes_code=True)
def sub(
    code: Callable[..., Awaitable[T]], *args: Any, name: str = "", **kwargs: Any
) -> Awaitable[T]:
    """Call a helper. It shares the data, and is given the other arguments as JSON."""
    raise _outside("sub")


def _go(point: Point, code: Defined, /, *args: Any, thread: str = "", **kwargs: Any) -> Operation:
    return Go(point.name, code, code.arguments(*args, **kwargs), thread)


@_mark("go", _go, takes_code=True)
def go(
    code: Callable[..., Awaitable[Any]],
    *args: Any,
    name: str = "",
    thread: str = "",
    **kwargs: Any,
) -> None:
    """Begin a thread of the instance, and go on. It is a statement of its own.

    Args:
        code: the helper that it runs.
        *args: its arguments without the data, which it shares.
        name: of the stop, a literal; that of the helper otherwise.
        thread: its name, which no other thread has; it gets one otherwise.
        **kwargs: more of its arguments.
    """
    raise _outside("go")


def _each(
    point: Point,
    workflow: Defined,
    items: Sequence[Any],
    /,
    *,
    limit: int = 100,
    strict: bool = True,
    abandon: bool = False,
) -> Operation:
    return Each(point.name, workflow, items, limit, strict, abandon)


@_mark("each", _each, takes_code=True)
def each(
    workflow: Callable[..., Awaitable[T]],
    items: Sequence[Any],
    *,
    limit: int = 100,
    strict: bool = True,
    abandon: bool = False,
    name: str = "",
) -> Awaitable[list[T]]:
    """Start a child for each item, at most ``limit`` at a time; gives what they return.

    Args:
        workflow: of the children.
        items: their data.
        limit: how many there are at once.
        strict: the first child that fails cancels the others. Otherwise they go on. Either way that
            is raised when all have ended.
        abandon: when this instance is cancelled, or its time is over, its children go on.
            Otherwise they are cancelled, and it goes on when they have ended.
        name: of the stop, a literal; that of the workflow otherwise.

    Raises:
        ChildFailed: a child has not come to a result.
    """
    raise _outside("each")


def _all_of(point: Point, /, *branches: Operation, strict: bool = True) -> Operation:
    return Join(point.name, branches, None, strict, tuple)


@_mark("join", _all_of)
def all_of(
    *branches: Awaitable[T], strict: bool = True, name: str = ""
) -> Awaitable[tuple[T, ...]]:
    """Do branches at once, written without ``await``; gives a tuple of their values.

    Args:
        *branches: what is done.
        strict: the first branch that raises cancels the others. Otherwise they go on, and that is
            raised when all have ended.
        name: of the stop, a literal.
    """
    raise _outside("all_of")


def _any_of(point: Point, /, *branches: Operation, strict: bool = False) -> Operation:
    if not branches:
        raise ValueError("any_of(...) has no branch that could give a value")
    return Join(point.name, branches, 1, strict, itemgetter(0))


@_mark("join", _any_of)
def any_of(*branches: Awaitable[T], strict: bool = False, name: str = "") -> Awaitable[T]:
    """Do branches at once; gives the value of the first, and cancels the others.

    Args:
        *branches: what is done.
        strict: a branch that raises before cancels the others, and that is raised. Otherwise it is
            raised when no branch is left.
        name: of the stop, a literal.
    """
    raise _outside("any_of")


def _first(point: Point, count: int, /, *branches: Operation, strict: bool = False) -> Operation:
    return Join(point.name, branches, count, strict, tuple)


@_mark("join", _first)
def first(
    count: int, *branches: Awaitable[T], strict: bool = False, name: str = ""
) -> Awaitable[tuple[T, ...]]:
    """Do branches at once; gives a tuple of the first values, and cancels the others.

    Args:
        count: of how many.
        *branches: what is done.
        strict: a branch that raises before cancels the others, and that is raised. Otherwise it is
            raised when too few are left.
        name: of the stop, a literal.
    """
    raise _outside("first")
