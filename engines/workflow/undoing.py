"""Compensations: what undoes the steps of a block, run when an error leaves it."""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

from msgspec import Raw, Struct

from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.values import kept
from flowstate.engines.workflow.compiler.lookup import hints_of
from flowstate.engines.workflow.definition import helper
from flowstate.engines.workflow.managers import Manager
from flowstate.engines.workflow.marks import step

__all__ = ["Compensation", "Undo", "compensating"]


class Compensation(Struct, frozen=True):
    """A call that undoes something; the stored form.

    Attributes:
        call: the function, as ``module:name``.
        args: its arguments by name.
    """

    call: str
    args: Mapping[str, Raw]

    @classmethod
    def of(cls, call: Callable[..., Any], *args: Any, **kwargs: Any) -> "Compensation":
        """Return the stored form of a call.

        Raises:
            TypeError: the arguments do not fit, or the function is not found under its name.
            InvalidInputError: JSON cannot hold an argument.
        """
        name = f"{getattr(call, '__module__', '')}:{getattr(call, '__qualname__', call)}"
        if _found(name) is not call:
            raise TypeError(f"{name} is not a function that can be found in its module")
        given = inspect.signature(call).bind(*args, **kwargs).arguments
        return cls(name, {key: kept(key, value) for key, value in given.items()})

    def made(self) -> Callable[[], Any]:
        """Return what makes the call.

        Raises:
            MisfitError: the function is not there, or takes something else.
        """
        call = _found(self.call)
        if call is None:
            raise MisfitError(f"there is no function {self.call} to undo something")
        try:
            hints = hints_of(call)
            args = {key: decoded(hints.get(key, Any), raw) for key, raw in self.args.items()}
            inspect.signature(call).bind(**args)
        except (TypeError, ValueError) as error:
            raise MisfitError(f"{self.call} cannot undo what is stored: {error}") from error
        return partial(call, **args)


def _found(name: str) -> Any:
    """Return what is loaded under a name; nothing is imported because a store says so."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    return reduce(lambda owner, part: getattr(owner, part, None), path.split("."), found)


class Undo(Struct):
    """What is to be undone, the last one first.

    Attributes:
        calls: in the order in which they were registered.
    """

    calls: list[Compensation] = []

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Register a call that is made, as a step, if an error leaves the block.

        Args:
            call: a function with annotated parameters, ``def`` or ``async def``, that can be found
                in its module.
            *args: its arguments.
            **kwargs: the same.

        Raises:
            TypeError: the arguments do not fit, or the function is not found under its name.
            InvalidInputError: JSON cannot hold an argument.
        """
        self.calls.append(Compensation.of(call, *args, **kwargs))


@helper(name="flowstate.compensating")
async def _enter(_s: Any) -> Undo:
    return Undo()


@helper(name="flowstate.compensating-leave", shielded=True)
async def _leave(_s: Any, undo: Undo, failed: bool) -> None:
    while failed and undo.calls:
        await step(undo.calls[-1].made(), name="undo")
        undo.calls.pop()


compensating: Manager[Undo] = Manager(_enter, _leave)
