"""Machines: states that are asked, and what they have in common."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from flowstate import InvalidInputError
from flowstate.engines.events.starting import Plan
from flowstate.engines.kernel.code import Code, CodeOptions
from flowstate.engines.logic.code import MachineCode, StateOptions
from flowstate.engines.logic.events import Event
from flowstate.engines.logic.lanes import Lane
from flowstate.engines.logic.nexts import as_values
from flowstate.engines.logic.problems import Retry
from flowstate.engines.logic.progress import CLEANUP
from flowstate.engines.logic.reach import Known, is_code, reached
from flowstate.engines.logic.starts import Start, plan_on
from flowstate.engines.logic.stored import Held
from flowstate.engines.logic.variables import NAMESPACE
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id

__all__ = ["Machine"]

F = TypeVar("F", bound=Callable[..., Any])


def _new_revision(data: Held[Any]) -> None:
    data.logged, data.log = data.logged + len(data.log), []


class Machine(MachineCode):
    """A machine: its states are functions that say what is to be done next.

    A state function, async or plain, is given a copy of the values and a wake, and returns a
    ``Next``. What it has changed of the values and what it wants are one commit. It may run again
    after a crash, and has ``patience`` seconds; effects belong into what it runs. An async one
    must not block the event loop; a plain one is called in a worker thread.

    Args:
        name: of the machine.
        data: the type of the values: a class of msgspec or attrs, a dataclass, or a ``dict``.
        catch: states by globs over codes of problems; those of a state come first.
        retry: of what states run, if neither that nor the state says it.
        soft_timeout: after which the state is told ``TimedOut("machine")``.
        hard_timeout: after which it ends; no state is asked, but it is cleaned up.
        namespace: whose variables it shares.
        uses: functions, machines and workflows that it runs and that its functions do not name.
        version: higher than those before; 0: its versions are not counted.
        patience: seconds that a state function may take.

    Raises:
        InvalidInputError: a bad argument; names it.
    """

    def __init__(
        self,
        name: str,
        data: Any = dict[str, Any],
        *,
        catch: Mapping[str, str] = EMPTY,
        retry: Retry | None = None,
        soft_timeout: timedelta | None = None,
        hard_timeout: timedelta | None = None,
        namespace: str = "",
        uses: Iterable[Any] = (),
        version: int = 0,
        patience: float = 5.0,
    ) -> None:
        self.name, self.kind, self.data = check_id("name", name), data, Held[data]
        self.catch, self.retry, self.version = catch, retry, version
        self.soft_timeout, self.hard_timeout = soft_timeout, hard_timeout
        self.states, self.stops, self.cleanup_function = {}, {}, None
        self.started_by: list[Start] = []
        self.lane, self._uses = Lane(self), [*uses]
        self.patience = patience
        labels = {NAMESPACE: namespace} if namespace else {}
        self.options = CodeOptions(
            new_revision=_new_revision, labels=lambda _: labels, again=self.again
        )

    def __repr__(self) -> str:
        return f"<machine {self.name!r}>"

    def state(
        self,
        name: str,
        *,
        timeout: timedelta | None = None,
        catch: Mapping[str, str] = EMPTY,
        retry: Retry | None = None,
    ) -> Callable[[F], F]:
        """Make the decorated function a state; the first one is where instances begin.

        Args:
            name: of the state, unique in the machine.
            timeout: of each stay in it; then the wake is ``TimedOut("state")``.
            catch: states by globs over codes of problems.
            retry: of what it runs, unless that has its own.

        Raises:
            InvalidInputError: the name is taken, or a bad timeout.
        """
        if check_id("name", name) in self.stops or name == CLEANUP:
            raise InvalidInputError("name", f"{self.name!r} has a state {name!r} already")
        if timeout is not None and not isinstance(timeout, timedelta):
            raise InvalidInputError("timeout", f"must be a timedelta, not {timeout!r}")

        def add(function: F) -> F:
            self.states[name] = StateOptions(function, timeout, catch, retry or self.retry)
            self.stops = {**self.stops, name: self.stop_of(name)}
            return function

        return add

    def cleanup(self, function: F) -> F:
        """Make the decorated function clean up, however an instance ends, unless that is hard.

        It is a step, given the values and the error, or ``None``; what it returns is nothing. If it
        fails five times, a good end becomes this failure.
        """
        self.cleanup_function = function
        self.stops = {**self.stops, CLEANUP: self.stop_of(CLEANUP)}
        return function

    def starts(
        self,
        *events: Event,
        all: bool = False,  # noqa: A002 - as of waits
        cron: str = "",
        zone: str = "UTC",
        every: timedelta | None = None,
    ) -> Callable[[F], F]:
        """Let instances start by events, at times, or in intervals, as long as a client is open.

        The decorated function is given the events that start one, and returns its values. Ids are
        made of the event, or of the time, so each starts once. A machine that is started by events
        is not started otherwise. To end it, cancel ``flowstate.starter.<machine>.<function>``.

        Args:
            *events: filters, of which one must let an event through.
            all: there must be an event for each.
            cron: an expression.
            zone: the time zone in which that is read.
            every: an interval.
        """

        def add(function: F) -> F:
            seconds = None if every is None else every.total_seconds()
            plan = plan_on(events, is_all=all) if events else Plan(seconds, cron, zone)
            name = f"{self.name}.{function.__name__}"
            self.started_by.append(Start(name, plan, function))
            return function

        return add

    def check_states(self) -> None:
        """Check what can be told before anything runs.

        Raises:
            InvalidInputError: there is no state, or a catcher names none.
        """
        if not self.states:
            raise InvalidInputError("states", f"{self!r} has none")
        for each in (self.catch, *(state.catch for state in self.states.values())):
            if missing := [to for to in each.values() if to not in self.states]:
                raise InvalidInputError("catch", f"{self!r} has no state {missing[0]!r}")

    @cached_property
    def known(self) -> Known:  # type: ignore[override] # it is read only
        """All that it can run, by the names that a store has for it."""
        functions = [each.function for each in self.states.values()]
        return reached(functions, self._uses)

    @cached_property
    def uses(self) -> Mapping[str, Code]:  # type: ignore[override] # it is read only
        """All other code that its instances run or start."""
        found = {name: each for name, each in self.known.items() if is_code(each)}
        return {self.lane.name: self.lane, **found}

    def held(self, value: Any = None) -> Held[Any]:
        """Return the data of a new instance.

        Args:
            value: its values. ``None`` are no values; what is no object becomes ``input``, bytes
                by base64.

        Raises:
            InvalidInputError: they are not of their type.
        """
        values = as_values(value)
        try:
            return Held(msgspec.convert(msgspec.to_builtins(values), self.kind))
        except (msgspec.ValidationError, TypeError) as error:
            raise InvalidInputError("values", f"are not of their type: {error}") from error
