"""What states run: functions as steps, and code with instances of its own as subflows."""

import contextlib
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw

from flowstate import InvalidInputError, RevisionMismatchError
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.operations import Each, Operation, Run, StepOptions
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.starting import flow_of, new_instance
from flowstate.engines.logic.problems import ONCE
from flowstate.engines.logic.reach import Known, is_code, signature
from flowstate.engines.logic.stored import Ran
from flowstate.engines.workflow.compiler.lookup import hints_of
from flowstate.ground.frozen import EMPTY

__all__ = ["find", "operation_of", "result_of"]


def find(known: Known, name: str) -> Any:
    """Return what has a name.

    Raises:
        MisfitError: there is no such thing any more.
    """
    if name not in known:
        raise MisfitError(f"nothing here is called {name!r} any more")
    return known[name]


def operation_of(known: Known, name: str, ran: Ran) -> Operation:
    """Return the operation, of a name, that runs something.

    Raises:
        MisfitError: it is not there any more.
    """
    what = find(known, ran.what)
    policy = ran.retry.policy if ran.retry else ONCE
    options = StepOptions(retry=policy, timeout=ran.timeout, gives=Raw)
    if ran.detached:
        return Run(name, _start, (what, ran.args[0]), options=options)
    if is_code(what):
        return Each(name, what, [ran.args[0]], 1)
    return Run(name, what, *_arguments(what, ran), options)


def _arguments(function: Any, ran: Ran) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments, each of the type that its parameter has."""
    hints, names = hints_of(function), list[str]()
    for each in signature(function).parameters.values():
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.VAR_POSITIONAL):
            names += [each.name] * (len(ran.args) if each.kind is each.VAR_POSITIONAL else 1)
    args = [decoded(hints.get(name, Any), raw) for name, raw in zip(names, ran.args, strict=False)]
    return args, {key: decoded(hints.get(key, Any), raw) for key, raw in ran.kwargs.items()}


async def _start(code: Any, data: Raw) -> str:
    """Start an instance that is nothing to this one, once; return its id."""
    step = current_step()
    id = f"{step.instance}.{sha256(step.key.encode()).hexdigest()[:16]}"
    labels = {"started_by": step.instance}
    ctx = new_instance(code, id, decoded(code.data, data), EMPTY, labels=labels)
    with contextlib.suppress(RevisionMismatchError):  # It was started before a crash.
        await step.engine.start(ctx, flow_of(code.name))
    return id


def result_of(known: Known, ran: Ran, raw: Raw) -> Any:
    """Return what was returned, of the type that the function says.

    Raises:
        InvalidInputError: it is not of that type.
    """
    what, gives = find(known, ran.what), Any
    if not ran.detached:
        gives = what.gives if is_code(what) else hints_of(what).get("return", Any)
    try:
        return decoded(gives, raw)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"result of {ran.what!r}", str(error)) from error
