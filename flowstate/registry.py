"""Flow ids and the functions that they stand for."""

import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from msgspec import Struct

from flowstate.commands import Command
from flowstate.context import StateContext
from flowstate.errors import InvalidInputError, UnknownFlowError
from flowstate.limits import check_id

__all__ = ["FlowRegistry", "RegisteredFlow"]

Call = Callable[[StateContext, Any], Coroutine[Any, Any, Command[Any]] | Command[Any]]
F = TypeVar("F", bound=Call)


class RegisteredFlow(Struct, frozen=True):
    """A flow, or with ``call=None`` the mere knowledge that it runs elsewhere."""

    call: Call | None
    blocking: bool = False


class FlowRegistry:
    """Flow ids and the functions that they stand for.

    A state can only be sent to a flow that the registry knows, so a misspelt id is refused
    before anything is written.
    """

    def __init__(self) -> None:
        self._flows: dict[str, RegisteredFlow] = {}

    def flow(self, id: str, *, blocking: bool = False) -> Callable[[F], F]:
        """Register the decorated function; see :meth:`set`.

        Args:
            id: at most 512 bytes of UTF-8. It is required: ``@flows.flow("reserve")``.
            blocking: run a plain ``def`` in a bounded pool of threads.

        Raises:
            InvalidInputError: as for :meth:`set`.
        """
        id = check_id("flow id", id)  # At once: the decorator may stand there without an id.

        def register(call: F) -> F:
            self.set(id, call, blocking=blocking)
            return call

        return register

    def set(self, id: str, flow: Call, *, blocking: bool = False, replace: bool = False) -> None:
        """Register ``flow`` under ``id``.

        Args:
            id: at most 512 bytes of UTF-8.
            flow: takes a :class:`flowstate.StateContext` and an :class:`flowstate.Engine`.
                ``async def``, or plain ``def``, which runs on the event loop and blocks it.
            blocking: run a plain ``def`` in a bounded pool of threads instead.
            replace: accept that ``id`` is registered already.

        Raises:
            InvalidInputError: a bad id, not a function of two arguments, registered already, or
                an ``async def`` with ``blocking=True``.
        """
        _check_flow(flow)
        if blocking and inspect.iscoroutinefunction(flow):
            raise InvalidInputError("blocking", "is for plain functions, not for async ones")
        self._add(id, RegisteredFlow(flow, bool(blocking)), replace=replace)

    def declare(self, id: str) -> None:
        """Make ``id`` known without a function: a process with another registry executes it.

        Raises:
            InvalidInputError: a bad id, or registered already.
        """
        self._add(id, RegisteredFlow(None), replace=False)

    def _add(self, id: str, flow: RegisteredFlow, *, replace: bool) -> None:
        id = check_id("flow id", id)
        if id in self._flows and not replace:
            raise InvalidInputError("flow id", f"{id!r} is registered already")
        self._flows[id] = flow

    def unset(self, id: str) -> None:
        """Forget ``id``.

        Raises:
            UnknownFlowError: it was not known.
        """
        if self._flows.pop(check_id("flow id", id), None) is None:
            raise UnknownFlowError(id)

    def check(self, id: str) -> str:
        """Return ``id`` as an exact ``str``, also when it is a member of a ``StrEnum``.

        Raises:
            InvalidInputError: not a flow id at all.
            UnknownFlowError: neither registered nor declared.
        """
        id = check_id("to", id)
        if id not in self._flows:
            raise UnknownFlowError(id)
        return id

    def runnable(self, id: str) -> RegisteredFlow:
        """Return the flow to execute.

        Raises:
            UnknownFlowError: not registered, or only declared.
        """
        found = self._flows.get(id)
        if found is None:
            raise UnknownFlowError(id)
        if found.call is None:
            raise UnknownFlowError(id, "is only declared here; another process executes it")
        return found

    def can_run(self, id: str) -> bool:
        """Return whether ``id`` is registered with a function."""
        found = self._flows.get(id)
        return found is not None and found.call is not None

    def __contains__(self, id: object) -> bool:
        return id in self._flows

    def __iter__(self) -> Iterator[str]:
        return iter(self._flows)


def _check_flow(flow: object) -> None:
    if not callable(flow) or isinstance(flow, type):
        what = f"the class {flow.__name__}" if isinstance(flow, type) else type(flow).__name__
        raise InvalidInputError("flow", f"must be a function, not {what}")
    try:
        signature = inspect.signature(flow)
    except ValueError:
        return  # Some functions made in C have none.
    except TypeError as error:
        raise InvalidInputError("flow", f"must be a function: {error}") from error
    try:
        signature.bind(None, None)
    except TypeError:
        reason = "must take two positional arguments, a context and an engine"
        raise InvalidInputError("flow", reason) from None
