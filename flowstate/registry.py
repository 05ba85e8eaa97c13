"""Flow ids and the functions that they stand for."""

import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypedDict, TypeVar, Unpack, overload

from msgspec import Struct

from flowstate.commands import Command
from flowstate.context import StateContext
from flowstate.errors import InvalidInputError, UnknownFlowError
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_flag, check_seconds
from flowstate.retrying import SHORTEST_TIMEOUT, Policy, RetryPolicy

__all__ = ["FlowOptions", "FlowRegistry", "RegisteredFlow"]

Call = Callable[[StateContext, Any], Coroutine[Any, Any, Command[Any]] | Command[Any]]
F = TypeVar("F", bound=Call)


class FlowOptions(TypedDict, total=False):
    """How a flow is called, and what is done when it fails.

    Attributes:
        blocking: run a plain ``def`` in a bounded pool of threads.
        retry: execute it again when it raises an ``Exception``, after a pause that is stored with
            the state; a :class:`flowstate.Delayer` of any engine then goes on. Without, what a
            flow raises is raised by ``engine.execute``, and only recovery executes it again.
        timeout: seconds that a call may take, by the clock of the engine. An ``async def`` is
            cancelled then. A blocking one cannot be: ``ctx.stopping`` tells it, nothing waits for
            it any longer, and its thread is taken until it ends. Both raise
            :class:`flowstate.FlowTimeoutError`, a failure like others. A plain ``def`` on the
            event loop has none.
        on_failure: the id of the flow that the state goes to when this one has failed and is not
            tried again. Without, and with ``retry``, the state is ended as dead; see
            :func:`flowstate.recovery.dead_states`.
        interrupt: cancel it when others have moved its state on meanwhile, which ends the
            execution quietly. Otherwise ``ctx.superseded`` tells it.
    """

    blocking: bool
    retry: RetryPolicy | None
    timeout: float | None
    on_failure: str | None
    interrupt: bool


class RegisteredFlow(Struct, frozen=True):
    """A flow, or with ``call=None`` the mere knowledge that it runs elsewhere.

    Attributes:
        id: of the flow; not that of an alias.
        call: the function.
        blocking: it runs in a thread.
        interrupt: it is cancelled when its state is moved on by others.
        policy: what is done when it fails.
        is_plain: to call it is all that there is to do.
    """

    id: str
    call: Call | None
    blocking: bool = False
    interrupt: bool = False
    policy: Policy = Policy()
    is_plain: bool = True


class FlowRegistry:
    """Flow ids and the functions that they stand for.

    A state can only be sent to a flow that the registry knows, so a misspelt id is refused
    before anything is written.

    Attributes:
        runnable_by_id: the flows with a function, without aliases; only to be read.
    """

    def __init__(self) -> None:
        self.runnable_by_id: dict[str, RegisteredFlow] = {}
        self._flows: dict[str, RegisteredFlow] = {}
        self._aliases: dict[str, str] = {}

    @overload
    def flow(self, id: F, /) -> F: ...
    @overload
    def flow(
        self, id: str | None = None, /, **options: Unpack[FlowOptions]
    ) -> Callable[[F], F]: ...
    def flow(self, id: Any = None, /, **options: Unpack[FlowOptions]) -> Any:
        """Register the decorated function; see :meth:`set`.

        ``@flows.flow`` and ``@flows.flow()`` take the name of the function for the id.

        Args:
            id: at most 512 bytes of UTF-8.
            options: see :class:`FlowOptions`.

        Raises:
            InvalidInputError: as for :meth:`set`.
        """
        if id is not None and not isinstance(id, str) and callable(id):
            return self._register(_name_of(id), id, options)
        if id is not None:
            id = check_id("flow id", id)  # At once: what is decorated comes later.
        return lambda call: self._register(_name_of(call) if id is None else id, call, options)

    def _register(self, id: str, call: F, options: FlowOptions) -> F:
        self.set(id, call, **options)
        return call

    def set(
        self, id: str, flow: Call, *, replace: bool = False, **options: Unpack[FlowOptions]
    ) -> None:
        """Register ``flow`` under ``id``.

        Args:
            id: at most 512 bytes of UTF-8.
            flow: takes a :class:`flowstate.StateContext` and an :class:`flowstate.Engine`.
                ``async def``, or plain ``def``, which runs on the event loop and blocks it.
            replace: accept that ``id`` is registered already, or an alias.
            options: see :class:`FlowOptions`.

        Raises:
            InvalidInputError: a bad id or option, not a function of two arguments, registered
                already, or an ``async def`` with ``blocking=True``.
        """
        id = check_id("flow id", id)
        _check_flow(flow)
        self._add(self._made(id, flow, **options), replace=replace)

    def _made(
        self,
        id: str,
        flow: Call,
        *,
        blocking: bool = False,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        on_failure: str | None = None,
        interrupt: bool = False,
    ) -> RegisteredFlow:
        check_flag("blocking", blocking)
        check_flag("interrupt", interrupt)
        if blocking and _is(inspect.iscoroutinefunction, flow):
            raise InvalidInputError("blocking", "is for plain functions, not for async ones")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidInputError("retry", f"must be a RetryPolicy, not {type(retry).__name__}")
        if timeout is not None:
            check_seconds("timeout", timeout, SHORTEST_TIMEOUT)
        if on_failure is not None:
            on_failure = check_id("on_failure", on_failure)
            if self._resolved(on_failure) == id:
                raise InvalidInputError(
                    "on_failure", "must be another flow than the one that fails"
                )
        is_plain = not blocking and not interrupt and timeout is None
        policy = Policy(retry, timeout, on_failure)
        return RegisteredFlow(id, flow, blocking, interrupt, policy, is_plain)

    def declare(self, id: str) -> None:
        """Make ``id`` known without a function: a process with another registry executes it.

        Raises:
            InvalidInputError: a bad id, or registered already.
        """
        self._add(RegisteredFlow(check_id("flow id", id), None), replace=False)

    def _add(self, flow: RegisteredFlow, *, replace: bool) -> None:
        if flow.id in self and not replace:
            raise InvalidInputError("flow id", f"{flow.id!r} is registered already")
        self._aliases.pop(flow.id, None)
        self._flows[flow.id] = flow
        if flow.call is not None:
            self.runnable_by_id[flow.id] = flow

    def alias(self, old: str, new: str) -> None:
        """Let what is stored under an old flow id run in another flow, after a rename.

        States that are in ``old``, and delays to it, are executed in ``new``; they keep the old id
        until they move on, so that their keys for effects stay the same. A ``Transit`` to ``old``
        goes to ``new``.

        Args:
            old: an id that is not registered.
            new: may be registered later, and may be an alias itself.

        Raises:
            InvalidInputError: a bad id, ``old`` is registered already, or the two would lead to
                each other.
        """
        old, new = check_id("old", old), check_id("new", new)
        if old in self:
            raise InvalidInputError("old", f"{old!r} is registered already")
        if self._resolved(new) == old:
            raise InvalidInputError("new", f"{new!r} leads back to {old!r}")
        self._aliases[old] = new

    def _resolved(self, id: str) -> str:
        """Return the id that an alias stands for, or the id itself."""
        while (new := self._aliases.get(id)) is not None:  # No alias leads back to itself.
            id = new
        return id

    def unset(self, id: str) -> None:
        """Forget ``id``, which may be an alias.

        Raises:
            UnknownFlowError: it was not known.
        """
        id = check_id("flow id", id)
        if self._aliases.pop(id, None) is None and self._flows.pop(id, None) is None:
            raise UnknownFlowError(id)
        self.runnable_by_id.pop(id, None)

    def check(self, id: str) -> str:
        """Return ``id`` as an exact ``str``, and of an alias what it stands for.

        Raises:
            InvalidInputError: not a flow id at all.
            UnknownFlowError: neither registered nor declared.
        """
        id = self._resolved(check_id("to", id))
        if id not in self._flows:
            raise UnknownFlowError(id)
        return id

    def is_same(self, id: str, other: str) -> bool:
        """Return whether two ids stand for the same flow."""
        return self._resolved(id) == self._resolved(other)

    def runnable(self, id: str) -> RegisteredFlow:
        """Return the flow to execute.

        Raises:
            UnknownFlowError: not registered, or only declared.
        """
        found = self.runnable_by_id.get(id) or self.runnable_by_id.get(self._resolved(id))
        if found is not None:
            return found
        if self._resolved(id) not in self._flows:
            raise UnknownFlowError(id)
        raise UnknownFlowError(id, "is only declared here; another process executes it")

    def can_run(self, id: str) -> bool:
        """Return whether ``id`` is registered with a function, or an alias of one that is."""
        found = self._flows.get(self._resolved(id))
        return found is not None and found.call is not None

    def failing_to(self) -> Iterator[tuple[str, str]]:
        """Iterate over the flows that have an ``on_failure``, with the id that it names."""
        for flow in self._flows.values():
            if flow.policy.on_failure is not None:
                yield flow.id, flow.policy.on_failure

    def __contains__(self, id: object) -> bool:
        return id in self._flows or id in self._aliases

    def __iter__(self) -> Iterator[str]:
        """Iterate over all ids, the aliases last."""
        return iter([*self._flows, *self._aliases])


def _name_of(flow: object) -> str:
    """Return the name of a function, to be its id."""
    _check_flow(flow)
    name = getattr(flow, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidInputError("flow id", "is needed for a function without a name")
    return name


def _check_flow(flow: object) -> None:
    if not callable(flow) or isinstance(flow, type):
        what = f"the class {flow.__name__}" if isinstance(flow, type) else type(flow).__name__
        raise InvalidInputError("flow", f"must be a function, not {what}")
    if _is(inspect.isgeneratorfunction, flow) or _is(inspect.isasyncgenfunction, flow):
        raise InvalidInputError("flow", "must return a command, and not yield")
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


def _is(kind: Callable[[Any], bool], flow: object) -> bool:
    """Return whether a function is of a kind, or the method that calls an object."""
    return kind(flow) or kind(type(flow).__call__)
