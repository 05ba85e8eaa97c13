"""What a definition asks for at a stop, and what it is told there."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
from msgspec import Struct

from flowstate import RetryPolicy
from flowstate.engines.kernel.code import Code, Update
from flowstate.ground.frozen import EMPTY

__all__ = [
    "Call",
    "Each",
    "Failed",
    "Gave",
    "Go",
    "Handler",
    "Join",
    "Operation",
    "Outcome",
    "Run",
    "StepOptions",
    "Until",
    "Wait",
]


def _bounded(span: timedelta) -> timedelta:
    return min(span, timedelta(days=36_500))


class Gave(Struct, frozen=True):
    """A stop gave a value."""

    value: Any = None


class Failed(Struct, frozen=True):
    """A stop raised an error."""

    error: BaseException


Outcome = Gave | Failed


@attrs.frozen
class StepOptions:
    """How a step is run.

    Attributes:
        retry: of its failures; ``None``: the policy of the workflow.
        timeout: seconds of one attempt.
        heartbeat_timeout: seconds of one attempt without a heartbeat; see :func:`current_step`.
        local: cheap and pure; it gets no commit of its own.
        gives: the type of its result, by which it is decoded.
        transaction: it runs in a transaction of the store, in which the place is committed, too.
    """

    retry: RetryPolicy | None = None
    timeout: float | None = None
    local: bool = False
    gives: Any = Any
    transaction: bool = False
    heartbeat_timeout: float | None = None


class Run(Struct, frozen=True):
    """Run a step: a function with effects."""

    name: str
    call: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = EMPTY
    options: StepOptions = StepOptions()


@attrs.frozen
class Wait:
    """Wait for the first of some messages, or until a time has passed.

    Attributes:
        name: of the stop.
        sources: classes of messages, handlers, ``Result`` and ``Event``. Without any it is a sleep,
            and the outcome is ``Gave(None)`` when the time has passed.
        timeout: after which the outcome is ``Failed(TimeoutError())``.
        lookback: how long before the wait an event may have been published, at most a century.
    """

    name: str
    sources: Sequence[Any]
    timeout: timedelta | None = None
    lookback: timedelta = attrs.field(default=timedelta(0), converter=_bounded)


@attrs.frozen
class Handler:
    """Among the sources of a wait: messages of a name that are handled before they count.

    When one comes, the data is changed by the commit that ends the wait, which gives ``name`` and
    the message. If handling it raises, it does not count. The sender by ``Kernel.update`` gets the
    answer.

    Attributes:
        name: of the messages.
        update: handles them.
    """

    name: str
    update: Update


@attrs.frozen
class Until:
    """Go on as soon as a condition of the data is true."""

    name: str
    condition: Callable[[Any], bool]


@attrs.frozen
class Call:
    """Call code that has stops of its own; it keeps its place in a frame of its own."""

    name: str
    code: Code
    args: Mapping[str, Any]


@attrs.frozen
class Join:
    """Do several operations at once; those that are not wanted any more are cancelled.

    The outcome is ``Gave`` of what ``shape`` makes of a list: with ``wanted=None`` the values of
    all branches in their order, else the values of the first so many that gave one, in the order
    of their coming (of fewer branches: of all). Without branches the list is empty, at once.

    Attributes:
        name: of the stop.
        branches: none of them is a ``Go``. They are asked for again in each turn, so their number
            and order must not depend on what other threads change.
        wanted: how many must give a value; ``None``: all.
        strict: the first branch that raises makes the join raise that. Otherwise the others go on,
            and the first error is raised when there are too few left. ``None``: strict if all are
            wanted.
        shape: makes the value of the list.
    """

    name: str
    branches: Sequence["Operation"]
    wanted: int | None
    strict: bool | None = None
    shape: Callable[[list[Any]], Any] = list


@attrs.frozen
class Each:
    """Start a child instance for each item, which is its data, at most ``limit`` at a time.

    The outcome is ``Gave`` of the list of results, in the order of the items. The first child that
    fails is raised as ``ChildFailed``.

    Attributes:
        name: of the stop.
        workflow: of the children.
        items: their data.
        limit: how many there are at once.
        strict: the first child that fails ends the others. Otherwise they go on, and it is raised
            when all have ended.
        abandon: a parent that is cancelled leaves its children alone. Otherwise it cancels them,
            and goes on when they have ended.
    """

    name: str
    workflow: Code
    items: Sequence[Any]
    limit: int
    strict: bool = True
    abandon: bool = False


@attrs.frozen
class Go:
    """Begin a thread of the instance, and go on; the outcome is ``Gave`` of the thread's name.

    Attributes:
        name: of the stop.
        code: of the thread.
        args: by name.
        thread: its name; empty: it gets one.
    """

    name: str
    code: Code
    args: Mapping[str, Any]
    thread: str = ""


Operation = Run | Wait | Until | Call | Join | Each | Go
