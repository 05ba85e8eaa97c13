"""Definitions: functions with stops, compiled when they are first used."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, TypeVar, overload

import attrs

from flowstate import RetryPolicy
from flowstate.engines.kernel.code import Code, CodeOptions, Frame, Reached, Stop, Update
from flowstate.engines.kernel.operations import Operation, Outcome
from flowstate.engines.workflow.compiler.compiled import Compiled
from flowstate.engines.workflow.compiler.compiling import compile_function
from flowstate.engines.workflow.compiler.errors import CompileError, Problem
from flowstate.engines.workflow.compiler.lookup import hints_of
from flowstate.engines.workflow.marking import Defined, MarkError
from flowstate.engines.workflow.versions import Upgrade, Versions
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id

__all__ = ["Definition", "Helper", "Workflow", "helper", "workflow"]

T = TypeVar("T")
Function = Callable[..., Coroutine[Any, Any, T]]
Answer = TypeVar("Answer", bound=Callable[[Any, Any], Any])


class Definition(Defined, Generic[T]):
    """A function with stops. Its first parameter is the data of the instance.

    Attributes:
        function: as it was written.
        name: what frames call it.
        version: of the function.
        renamed: old names of stops and of local names, and what they are called now.
        versions: what is done with frames of older versions.
        options: how it is run.
    """

    def __init__(
        self,
        function: Function[T],
        name: str,
        renamed: Mapping[str, str],
        versions: Versions,
        options: CodeOptions,
    ) -> None:
        self.function = function
        self.name = name
        self.renamed = renamed
        self.versions, self.version = versions, versions.version
        self.options = options
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
        """Refuse to be called: it is given to a mark, or started.

        Raises:
            MarkError: always.
        """
        raise MarkError(f"write await sub({self.name}, ...), or start it as an instance")

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name!r}>"

    @cached_property
    def compiled(self) -> Compiled:
        """The compiled function.

        Raises:
            CompileError: it cannot be compiled; has every problem.
        """
        return compile_function(self.function, self.name, self.renamed)

    @cached_property
    def stops(self) -> Mapping[str, Stop]:  # type: ignore[override] # it is read only
        """What is known about each stop, by name."""
        return self.compiled.stops

    @cached_property
    def takes(self) -> Mapping[str, Any]:  # type: ignore[override] # it is read only
        """The names of its arguments without the data, and their types."""
        return self.compiled.takes

    @cached_property
    def gives(self) -> Any:
        """The type of its result. It is known before it is compiled, for others that call it."""
        return hints_of(self.function).get("return", Any)

    @cached_property
    def uses(self) -> Mapping[str, Code]:  # type: ignore[override] # it is read only
        """All other code that its threads may run, or that its children are of, by name.

        Raises:
            CompileError: one of them cannot be compiled, or two have one name.
        """
        found: dict[str, Definition[Any]] = {self.name: self}
        waiting: list[Any] = [self]
        while waiting:
            last = waiting.pop()
            is_function = isinstance(last, Definition)
            for code in last.compiled.targets if is_function else last.uses.values():
                if code.name not in found:
                    found[code.name] = code
                    waiting.append(code)
                elif found[code.name] is not code:
                    raise CompileError([_taken(code, found[code.name])])
        return {name: code for name, code in found.items() if code is not self}

    def begin(self, frame: Frame, data: Any) -> Reached:
        """Run from the beginning to the first stop."""
        return self.versions.stamped(self.compiled.begin(frame, data))

    def ask(self, frame: Frame, data: Any) -> Operation:
        """Return what is to be done at a stop."""
        return self.compiled.ask(self.versions.upgraded(frame), data)

    def go_on(self, frame: Frame, data: Any, outcome: Outcome) -> Reached:
        """Give a stop its outcome, and run to the next one."""
        frame = self.versions.upgraded(frame)
        return self.versions.stamped(self.compiled.go_on(frame, data, outcome))

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless a frame can be entered."""
        self.compiled.check(self.versions.upgraded(frame))

    def arguments(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Return arguments by name, without the data.

        Raises:
            TypeError: they do not fit.
        """
        bound = self._signature.bind(None, *args, **kwargs).arguments
        return dict(list(bound.items())[1:])

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)


def _taken(code: Any, other: Any) -> Problem:
    function = code.function.__code__
    reason = f"is the name of the code on line {other.function.__code__.co_firstlineno}, too"
    return Problem(
        function.co_filename,
        function.co_firstlineno,
        code.function.__qualname__,
        code.name,
        reason,
        'write @helper(name="...")',
    )


class Helper(Definition[T]):
    """A function with stops, called by ``await sub(helper, ...)`` or begun by ``go(helper)``."""

    data = None


class Workflow(Definition[T]):
    """A function with stops, of which instances are started."""

    has_instances = True

    @cached_property
    def data(self) -> Any:
        """The type of the data."""
        return self.compiled.data

    def update(self, function: Answer) -> Answer:
        """Decorate a function that answers requests of its name.

        It is given the data and the request, changes the data in place, and returns the answer;
        both are one commit. If it raises, the data stays as it was.
        """
        _, request = inspect.signature(function).parameters
        made = Update(hints_of(function).get(request, Any), function)
        updates = {**self.options.updates, function.__name__: made}
        self.options = attrs.evolve(self.options, updates=updates)
        return function


def workflow(
    name: str,
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    retry_after: timedelta | None = None,
    renamed: Mapping[str, str] = EMPTY,
    version: int = 0,
    upgrade: Upgrade | None = None,
) -> Callable[[Function[T]], Workflow[T]]:
    """Decorate a coroutine function of which instances are started.

    Args:
        name: what the store calls it.
        retry: of its steps, unless they say otherwise; ``None``: a failing step fails at once.
        timeout: how long an instance may take.
        retry_after: how long an instance whose process has died stands still before a
            ``Recoverer`` goes on with it; ``None``: 2 minutes.
        renamed: old names of stops and of local names, and what they are called now, so that
            instances that were stored with the old ones go on.
        version: of the function, higher than those before; stored with what is alive at a stop.
        upgrade: is given what an older version has stored, as plain JSON by name, and that version;
            returns what this version needs. It is called whenever that is read, so it has no
            effects. The data has ``__flowstate_upgrade__`` for this; see ``State.get``.

    Raises:
        InvalidInputError: the name or a time is refused.
    """
    check_id("name", name)
    options = CodeOptions(retry, timeout, retry_after=retry_after)
    versions = Versions(version, upgrade)
    return lambda function: Workflow(function, name, renamed, versions, options)


@overload
def helper(function: Function[T], /) -> Helper[T]: ...
@overload
def helper(
    *,
    name: str = "",
    shielded: bool = False,
    renamed: Mapping[str, str] = EMPTY,
    version: int = 0,
    upgrade: Upgrade | None = None,
) -> Callable[[Function[T]], Helper[T]]: ...
def helper(
    function: Function[T] | None = None,
    /,
    *,
    name: str = "",
    shielded: bool = False,
    renamed: Mapping[str, str] = EMPTY,
    version: int = 0,
    upgrade: Upgrade | None = None,
) -> Any:
    """Decorate a coroutine function that a definition calls with ``sub``, or begins with ``go``.

    Args:
        function: the function; its first parameter is the data of the instance.
        name: what frames call it; its own otherwise.
        shielded: a cancellation, or the timeout of the whole, waits until it has ended: it is
            raised at the next stop after it. For what cleans up.
        renamed: as of ``workflow``.
        version: the same.
        upgrade: the same.
    """

    def decorated(function: Function[T]) -> Helper[T]:
        versions, options = Versions(version, upgrade), CodeOptions(shielded=shielded)
        return Helper(function, name or function.__name__, renamed, versions, options)

    return decorated if function is None else decorated(function)
