"""What a definition writes where it stops: ``await step(...)``, ``await wait(...)``, ``go(...)``.

The compiler puts its own code in place of these calls, so that the functions here never run.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, TypeVar, overload

from msgspec import Struct

from flowstate import RetryPolicy
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
from flowstate.engines.workflow.marking import Defined, Point, mark, outside

__all__ = [
    "Timeout",
    "all_of",
    "any_of",
    "each",
    "first",
    "go",
    "sleep",
    "step",
    "sub",
    "until",
    "wait",
]

T = TypeVar("T")


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
@mark("step", _run, takes_code=True)
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
    raise outside("step")


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
@mark("wait", _wait)
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
    raise outside("wait")


def _sleep(point: Point, time: float | timedelta, /) -> Operation:
    return Wait(point.name, (), _span(time))


@mark("wait", _sleep)
def sleep(time: float | timedelta, *, name: str = "") -> Awaitable[None]:
    """Wait for seconds, or for a ``timedelta``."""
    raise outside("sleep")


def _until(point: Point, condition: Callable[[Any], bool], /) -> Operation:
    return Until(point.name, condition)


@mark("until", _until)
def until(condition: Callable[[Any], bool], *, name: str = "") -> Awaitable[None]:
    """Wait until a condition of the data is true."""
    raise outside("until")


def _sub(point: Point, code: Defined, /, *args: Any, **kwargs: Any) -> Operation:
    return Call(point.name, code, code.arguments(*args, **kwargs))


@mark("call", _sub, takes_code=True)
def sub(
    code: Callable[..., Awaitable[T]], *args: Any, name: str = "", **kwargs: Any
) -> Awaitable[T]:
    """Call a helper. It shares the data, and is given the other arguments as JSON."""
    raise outside("sub")


def _go(point: Point, code: Defined, /, *args: Any, thread: str = "", **kwargs: Any) -> Operation:
    return Go(point.name, code, code.arguments(*args, **kwargs), thread)


@mark("go", _go, takes_code=True)
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
    raise outside("go")


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


@mark("each", _each, takes_code=True)
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
    raise outside("each")


def _all_of(point: Point, /, *branches: Operation, strict: bool = True) -> Operation:
    return Join(point.name, branches, None, strict, tuple)


@mark("join", _all_of)
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
    raise outside("all_of")


def _any_of(point: Point, /, *branches: Operation, strict: bool = False) -> Operation:
    if not branches:
        raise ValueError("any_of(...) has no branch that could give a value")
    return Join(point.name, branches, 1, strict, itemgetter(0))


@mark("join", _any_of)
def any_of(*branches: Awaitable[T], strict: bool = False, name: str = "") -> Awaitable[T]:
    """Do branches at once; gives the value of the first, and cancels the others.

    Args:
        *branches: what is done.
        strict: a branch that raises before cancels the others, and that is raised. Otherwise it is
            raised when no branch is left.
        name: of the stop, a literal.

    Raises:
        ValueError: there is no branch.
    """
    raise outside("any_of")


def _first(point: Point, count: int, /, *branches: Operation, strict: bool = False) -> Operation:
    return Join(point.name, branches, count, strict, tuple)


@mark("join", _first)
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
    raise outside("first")
