"""What a state wants next."""

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs
import msgspec
from msgspec import Raw

from flowstate import InvalidInputError, encoded
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.errors import stored
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.logic.events import Event, Gathered
from flowstate.engines.logic.problems import NextError, Problem, Retry
from flowstate.engines.logic.reach import Known, is_code, name_of, signature
from flowstate.engines.logic.stored import Ran, Want

__all__ = [
    "Await",
    "AwaitAll",
    "AwaitAny",
    "Done",
    "Next",
    "Run",
    "RunAll",
    "RunAny",
    "Sleep",
    "Stay",
    "To",
    "as_values",
]

MOST_EVENTS = 20  # That one state waits for.
MOST_AT_ONCE = 1_000  # Of what one state runs.
LONGEST = timedelta(days=36_500)
VALUES: Any = object()


def _check(name: str, value: Any, *, is_right: bool, must_be: str) -> None:
    if not is_right:
        raise InvalidInputError(name, f"must be {must_be}, not {value!r}")


def _is_time(_: object, field: Any, value: Any) -> None:
    is_time = isinstance(value, timedelta) and timedelta(0) <= value <= LONGEST
    _check(field.name, value, is_right=is_time, must_be="a timedelta of at most a century")


def _is_count(_: object, field: Any, value: Any) -> None:
    is_count = type(value) is int and 0 < value <= MOST_AT_ONCE
    _check(field.name, value, is_right=is_count, must_be=f"from 1 to {MOST_AT_ONCE}")


def _are_runs(_: object, field: Any, value: Any) -> None:
    is_right = all(isinstance(each, Run) for each in value)
    _check(field.name, value, is_right=is_right, must_be="a list of Run")


def _are_events(_: object, field: Any, value: Any) -> None:
    is_right = 0 < len(value) <= MOST_EVENTS and all(isinstance(each, Event) for each in value)
    _check(field.name, value, is_right=is_right, must_be=f"from 1 to {MOST_EVENTS} events")


@attrs.frozen(kw_only=True)
class Next(ABC):
    """What a state wants next.

    Attributes:
        transform: jq, which makes new values of the values; ``$result`` is what has come back. It
            is done before a state is woken next. What it gives must be of the type of the values;
            else that is a problem ``transform``.
    """

    transform: str = ""

    @abstractmethod
    def want(self, known: Known, retry: Retry | None) -> Want:
        """Return its stored form.

        Args:
            known: what the machine can run.
            retry: of what is run and says nothing of that.

        Raises:
            NextError: it cannot be done.
        """


@attrs.frozen
class Sleep(Next):
    """Wait for a time; then the wake is ``Slept``."""

    time: timedelta = attrs.field(validator=_is_time)

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: ARG002, D102
        return Want("sleep", seconds=self.time.total_seconds(), transform=self.transform)


@attrs.frozen(init=False)
class Run(Next):
    """Run a function as a step, or a machine or workflow as a subflow; then it is ``Returned``.

    A step may run again after a crash, with the same ``effect_key``.

    Args:
        what: a function, or code with instances of its own. The functions of the machine must name
            it, or its ``uses``.
        *args: of the function; of a subflow, what it is started with.
        retry: which problems are worth another attempt; ``None``: as the state says.
        timeout: of each attempt of a function.
        detached: start a subflow and go on with its id; it is nothing to this instance.
        transform: see :class:`Next`.
        **kwargs: of the function.

    Raises:
        InvalidInputError: a bad value; names it.
    """

    what: Callable[..., Any] | Code
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry | None
    timeout: timedelta | None = attrs.field(validator=attrs.validators.optional(_is_time))
    detached: bool

    def __init__(
        self,
        what: Callable[..., Any] | Code,
        /,
        *args: Any,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        detached: bool = False,
        transform: str = "",
        **kwargs: Any,
    ) -> None:
        must_be = "a function or a machine"
        _check("what", what, is_right=is_code(what) or callable(what), must_be=must_be)
        if is_code(what) and (len(args) > 1 or kwargs or timeout):
            raise InvalidInputError("args", "of a subflow are one value, without a timeout")
        if detached and not is_code(what):
            raise InvalidInputError("detached", "is for subflows only")
        self.__attrs_init__(what, args, kwargs, retry, timeout, detached, transform=transform)

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: D102
        ran = self.ran(known, retry)
        # A lane starts a subflow again.
        is_lane = is_code(self.what) and ran.retry is not None and not ran.detached
        return Want("all" if is_lane else "run", "Run", runs=[ran], transform=self.transform)

    def ran(self, known: Known, retry: Retry | None) -> Ran:
        """Return its stored form; see :meth:`want`."""
        name = name_of(self.what)
        if known.get(name) is not self.what:
            fix = "let a state name it, or give it to the machine with uses="
            raise NextError(f"{name!r} could not be found again after a crash: {fix}")
        timeout = None if self.timeout is None else self.timeout.total_seconds()
        try:
            if is_code(self.what):
                args = [_data(self.what, self.args[0] if self.args else None)]
            else:
                signature(self.what).bind(*self.args, **self.kwargs)
                args = [encoded("args", each) for each in self.args]
            kwargs = {key: encoded(key, each) for key, each in self.kwargs.items()}
        except (TypeError, InvalidInputError, msgspec.ValidationError) as error:
            raise NextError(f"{name!r} cannot be run so: {error}") from error
        return Ran(name, args, kwargs, self.retry or retry, timeout, self.detached)


def _data(code: Any, value: Any) -> Raw:
    """Return with what a subflow is started; it has been checked."""
    make = getattr(code, "held", None)
    raw = encoded("args", value if make is None else make(value))
    decoded(code.data, raw)
    return raw


def as_values(value: Any) -> Any:
    """Return what a machine is started with: nothing is no values, and no object is ``input``."""
    if value is None:
        return {}
    if isinstance(value, bytes):
        return {"input": b64encode(value).decode()}
    return {"input": value} if isinstance(value, str | int | float | list | tuple) else value


@attrs.frozen
class RunAll(Next):
    """Run several, at most ``limit`` at once; then they are ``AllReturned``.

    Without any it returns at once. One that fails is a problem, with its code; ``failed`` of the
    problem says which have failed.

    Attributes:
        runs: what is run.
        limit: how many run at once.
        strict: the first that fails ends the others. Otherwise they go on first.
    """

    runs: Sequence[Run] = attrs.field(validator=_are_runs)
    limit: int = attrs.field(default=100, validator=_is_count, kw_only=True)
    strict: bool = attrs.field(default=True, kw_only=True)

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: D102
        runs = [each.ran(known, retry) for each in self.runs]
        want = Want("all", type(self).__name__, runs=runs, transform=self.transform)
        want.at_once, want.strict = self.limit, self.strict
        return want


@attrs.frozen
class RunAny(RunAll):
    """Run several, at least one, until one has returned; the wake is ``AnyReturned``.

    The others are cancelled. If all fail, that is a problem with the code of the first; ``failed``
    of it has all of them. Attributes as ``RunAll``.
    """

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: D102
        if not self.runs:
            raise NextError("RunAny needs at least one")
        return msgspec.structs.replace(super().want(known, retry), do="any")


@attrs.frozen(init=False)
class AwaitAny(Next):
    """Wait for the first event that one of some filters lets through; the wake is ``AnyArrived``.

    An instance is given each event once, also those that were published since it was started.

    Args:
        *events: the filters.
        timeout: after which the wake is ``TimedOut("wait")``.
        transform: see :class:`Next`.
    """

    events: tuple[Event, ...] = attrs.field(validator=_are_events)
    timeout: timedelta | None = attrs.field(validator=attrs.validators.optional(_is_time))

    def __init__(
        self, *events: Event, timeout: timedelta | None = None, transform: str = ""
    ) -> None:
        self.__attrs_init__(events, timeout, transform=transform)

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: ARG002, D102
        seconds = None if self.timeout is None else self.timeout.total_seconds()
        filters = [{"type": each.type, **each.context_globs} for each in self.events]
        gathered = Gathered(filters, len(filters) if isinstance(self, AwaitAll) else 1)
        form, transform = type(self).__name__, self.transform
        return Want("await", form, seconds=seconds, gathered=gathered, transform=transform)


class AwaitAll(AwaitAny):
    """Wait for an event of each filter; the wake is ``AllArrived``. Arguments as ``AwaitAny``."""


class Await(AwaitAny):
    """Wait for one event; the wake is ``Arrived``. Arguments as ``AwaitAny``, with one event."""

    def __init__(
        self, event: Event, /, timeout: timedelta | None = None, transform: str = ""
    ) -> None:
        super().__init__(event, timeout=timeout, transform=transform)


@attrs.frozen
class To(Next):
    """Go to a state.

    Attributes:
        state: its name.
        fails: however the machine ends, it then fails with this problem.
    """

    state: str
    fails: Problem | None = attrs.field(default=None, kw_only=True)

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: ARG002, D102
        fails = None if self.fails is None else stored(self.fails)
        return Want("to", to=self.state, fails=fails)


@attrs.frozen
class Stay(Next):
    """Sleep or wait as before: as long as was left, or with the full time if that is over."""

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: ARG002, D102
        return Want("stay")


@attrs.frozen
class Done(Next):
    """End the instance, with a result; without, with the values."""

    result: Any = VALUES

    def want(self, known: Known, retry: Retry | None) -> Want:  # noqa: ARG002, D102
        result = [] if self.result is VALUES else [encoded("result", self.result)]
        return Want("done", result=result)
