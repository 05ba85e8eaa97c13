"""Durable managers: what a definition enters by ``async with``, and leaves in any case."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import attrs

from flowstate import InvalidInputError
from flowstate.engines.workflow.definition import Helper
from flowstate.engines.workflow.marking import MarkError
from flowstate.engines.workflow.marks import sub

__all__ = ["Manager"]

T = TypeVar("T")


@attrs.frozen
class Manager(Generic[T]):
    """What ``async with manager(...) as held:`` enters and leaves, as two stops of a definition.

    What ``enter`` returns is stored, decoded as its return type, and given to ``leave``, with
    whether an error leaves the block. ``leave`` cannot be interrupted, and what it raises comes
    from that error. It does not run if ``enter`` raises.

    Args:
        enter: a helper; it is given the arguments of the call.
        leave: a shielded helper with two parameters apart from the data: what was entered, and
            whether it failed.

    Raises:
        InvalidInputError: ``leave`` is not shielded.
    """

    enter: Helper[T]
    leave: Helper[None] = attrs.field()
    sub = staticmethod(sub)  # Compiled code calls it.

    @leave.validator
    def _is_shielded(self, _: object, leave: Helper[None]) -> None:
        if not leave.options.shielded:
            raise InvalidInputError("leave", f"write @helper(shielded=True) above {leave.name}")

    def __call__(
        self, *_args: Any, name: str = "", **_kwargs: Any
    ) -> AbstractAsyncContextManager[T]:
        """Refuse to be called anywhere else.

        Args:
            *_args: of ``enter``.
            name: of the stop, a literal; that of the manager otherwise. The stop at which it is
                left has ``-leave`` after it.
            **_kwargs: of ``enter``.

        Raises:
            MarkError: always.
        """
        text = f"manager(..., name={name!r})" if name else "manager(...)"
        raise MarkError(f"async with {text} works only within a function with @workflow or @helper")
