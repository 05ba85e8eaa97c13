"""Flows and the registry that knows them by id."""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from flowstate.commands import Command
from flowstate.context import StateContext
from flowstate.errors import InvalidInputError, UnknownFlowError
from flowstate.limits import check_id

if TYPE_CHECKING:
    from flowstate.engine import Engine

__all__ = ["Flow", "FlowRegistry"]

Flow = Callable[[StateContext, "Engine"], Command[Any] | Awaitable[Command[Any]]]
"""Takes a state and the engine that executes it; returns what to do next."""

F = TypeVar("F", bound=Flow)


class RegisteredFlow(Struct, frozen=True):
    """A flow, or with ``call=None`` the mere knowledge that it runs elsewhere."""

    call: Flow | None
    blocking: bool = False


class FlowRegistry:
    """Flow ids and what they run.

    A state can only be sent to a flow that the registry knows, so a misspelt id is refused
    before anything is written.
    """

    def __init__(self) -> None:
        self._flows: dict[str, RegisteredFlow] = {}

    def flow(self, id: str, *, blocking: bool = False) -> Callable[[F], F]:
        """Register the decorated function; see :meth:`set`."""

        def register(call: F) -> F:
            self.set(id, call, blocking=blocking)
            return call

        return register

    def set(self, id: str, flow: Flow, *, blocking: bool = False, replace: bool = False) -> None:
        """Register ``flow`` under ``id``.

        Args:
            id: at most 512 bytes of UTF-8.
            flow: ``async def``, or plain ``def``. A plain one runs on the event loop, which
                waits for it.
            blocking: run a plain ``def`` in a bounded pool of threads instead.
            replace: accept that ``id`` is registered already.

        Raises:
            InvalidInputError: a bad id, not callable, registered already, or an ``async def``
                with ``blocking=True``.
        """
        if not callable(flow):
            raise InvalidInputError("flow", f"must be callable, not {type(flow).__name__}")
        if blocking and inspect.iscoroutinefunction(flow):
            raise InvalidInputError("blocking", "is for plain functions, not for async ones")
        self._add(id, RegisteredFlow(flow, blocking), replace=replace)

    def declare(self, id: str) -> None:
        """Make ``id`` known without a function: a process with another registry executes it."""
        self._add(id, RegisteredFlow(None), replace=False)

    def _add(self, id: str, flow: RegisteredFlow, *, replace: bool) -> None:
        check_id("flow id", id)
        if id in self._flows and not replace:
            raise InvalidInputError("flow id", f"{id!r} is registered already")
        self._flows[id] = flow

    def unset(self, id: str) -> None:
        """Forget ``id``.

        Raises:
            UnknownFlowError: it was not known.
        """
        if self._flows.pop(id, None) is None:
            raise UnknownFlowError(id)

    def check(self, id: str) -> str:
        """Return ``id`` as a plain string, also when it is a member of a ``StrEnum``.

        Raises:
            InvalidInputError: not a flow id at all.
            UnknownFlowError: neither registered nor declared.
        """
        if type(id) is not str:
            check_id("to", id)
            id = str.__str__(id)
        if id not in self._flows:
            check_id("to", id)
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
