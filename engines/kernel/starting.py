"""New instances: the state of one, with its main thread before its first stop."""

from collections.abc import Mapping
from typing import Any

import attrs

from flowstate import InvalidInputError, State, StateContext, encoded
from flowstate.engines.kernel.code import At, Code, Frame
from flowstate.engines.kernel.instance import (
    DATA,
    ORIGIN,
    PARENT,
    WORKFLOW,
    Instance,
    Notes,
    Used,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.threads import MAIN, Thread
from flowstate.ground.frozen import EMPTY
from flowstate.recovery import set_retry_after

__all__ = ["Origin", "flow_of", "new_instance"]

NO_CODES = Used()


def flow_of(name: str) -> str:
    """Return the id of the flow that runs the instances of a workflow."""
    return f"workflow.{name}"


@attrs.frozen
class Origin:
    """Where the child of another instance comes from; the stored form.

    Attributes:
        parent: the id of the instance.
        thread: the one that waits for its children.
        passed: how many stops that had passed.
        abandoned: it goes on when the parent is cancelled.
    """

    parent: str
    thread: str
    passed: int
    abandoned: bool = False


def new_instance(
    code: Code,
    id: str,
    data: Any,
    args: Mapping[str, Any],
    *,
    labels: Mapping[str, str] = EMPTY,
    origin: Origin | None = None,
) -> StateContext:
    """Return the context of a new instance, to be sent to its flow.

    The code runs to its first stop already, so that no further commit is needed before the first
    step.

    Raises:
        InvalidInputError: JSON cannot hold the data or an argument, or they are not of their type.
    """
    ctx = StateContext(State(id, labels={**labels, WORKFLOW: code.name}))
    names = {key: encoded(f"args[{key!r}]", value) for key, value in args.items()}
    instance = Instance(
        id, code, NO_CODES, _own(code, data), {MAIN: Thread((Frame(code.name, names=names),))}
    )
    if code.options.timeout is not None:
        instance.notes = Notes(timeout=code.options.timeout.total_seconds())
    if code.options.retry_after is not None:
        set_retry_after(ctx, code.options.retry_after)
    if code.options.retry_after is not None:
        set_retry_after(ctx, code.options.retry_after)
    reached = code.begin(instance.main.frames[0], instance.data)
    if isinstance(reached, At):
        instance.main.frames = (reached.frame,)
    else:  # It ends in its first turn, which begins once more.
        instance.data = _own(code, data)
    instance.save(ctx)
    if origin is not None:
        ctx.set_label(PARENT, origin.parent)
        ctx.put(origin, ORIGIN)
    return ctx


def _own(code: Code, data: Any) -> Any:
    """Return the data as a decode gives it, apart from what the caller has."""
    raw = encoded(DATA, data)
    try:
        return decoded(code.data, raw)
    except ValueError as error:
        name = getattr(code.data, "__name__", str(code.data))
        raise InvalidInputError(DATA, f"is not of the type {name}: {error}") from error
