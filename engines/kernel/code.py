"""Code with named stops: what a thread of an instance runs, and how it is entered again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs
from msgspec import Raw, Struct

from flowstate import InvalidInputError, RetryPolicy
from flowstate.ground.frozen import EMPTY

if TYPE_CHECKING:
    from flowstate.engines.kernel.operations import Operation, Outcome

__all__ = [
    "At",
    "Code",
    "CodeOptions",
    "Frame",
    "MisfitError",
    "Raised",
    "Reached",
    "Returned",
    "Stop",
    "Update",
    "stops_of",
]


class Frame(Struct, frozen=True, omit_defaults=True):
    """Where code stands, and what is alive there: the stored form.

    Attributes:
        code: the name of the code.
        stop: the name of the stop before which it stands; empty at the beginning.
        names: values that are alive there, as JSON; at the beginning the arguments.
        place: what else the code needs to be entered there, as JSON: positions of loops by name,
            the error that is alive, the exit that is pending.
        version: of the code that has stored it, if that counts its versions.
    """

    code: str
    stop: str = ""
    names: Mapping[str, Raw] = EMPTY
    place: Mapping[str, Raw] = EMPTY
    version: int = 0


@attrs.frozen
class Stop:
    """What is known about a stop before it is reached.

    Attributes:
        name: unique within the code.
        kind: ``step``, ``wait``, ``call``, ``join``, ``each``, ``until`` or ``go``.
        line: in the source, from 1; 0 if there is none.
        names: the names that must be stored there, and the types by which they are decoded.
        optional: those of them that need not be bound there.
        levels: what encloses it and is part of the place, from the outside in: ``for item``,
            ``except 2``, ``finally 1``.
        messages: those that it waits for, by name, and their types; as far as that can be told.
        is_open: it may wait for messages that are not among those.
        runs: further code that it runs in the same instance.
    """

    name: str
    kind: str
    line: int = 0
    names: Mapping[str, Any] = EMPTY
    optional: frozenset[str] = frozenset()
    levels: Sequence[str] = ()
    messages: Mapping[str, Any] = EMPTY
    is_open: bool = True
    runs: "Sequence[Code]" = ()


class At(Struct, frozen=True):
    """The code stands before a stop."""

    frame: Frame


class Returned(Struct, frozen=True):
    """The code has returned a value."""

    value: Any


class Raised(Struct, frozen=True):
    """The code has raised an error."""

    error: BaseException


Reached = At | Returned | Raised


@attrs.frozen
class Update:
    """A request that changes the data of an instance and is answered, both in one commit.

    Attributes:
        takes: the type of the request.
        call: is given the data and the request, changes the data in place, and returns the answer.
            What it raises is the answer, too; the data then stays as it was.
    """

    takes: Any
    call: Callable[[Any, Any], Any]


def _is_time(_: object, field: Any, value: Any) -> None:
    if value is not None and not isinstance(value, timedelta):
        raise InvalidInputError(field.name, f"must be a timedelta, not {value!r}")


@attrs.frozen
class CodeOptions:
    """How instances of a code are run.

    Attributes:
        retry: of steps that have no policy of their own; ``None``: that of the kernel.
        timeout: of the whole instance: then ``TimeoutError`` is raised at its next stop.
        updates: by the names under which they are asked for.
        retry_after: see ``recovery.set_retry_after``; ``None``: 2 minutes.
        shielded: of a helper: what a thread is owed is raised at its first stop after it.
        new_revision: takes from the data what belongs to one revision only, such as a list of what
            has happened since the one before. It is called when data was read or stored.
        told: is given the data when an instance is paused or resumed, and where its threads stand;
            it may change the data.
        labels: of a new instance, by its data, besides those that it is started with.
        again: makes of the frame at which an instance has failed the one from which it goes on
            when an operator tries again, and says how many stops lie between them.

    Raises:
        InvalidInputError: a time is no ``timedelta``.
    """

    retry: RetryPolicy | None = None
    timeout: timedelta | None = attrs.field(default=None, validator=_is_time)
    updates: Mapping[str, Update] = EMPTY
    retry_after: timedelta | None = attrs.field(default=None, validator=_is_time)
    shielded: bool = False
    new_revision: Callable[[Any], None] | None = None
    told: Callable[[Any, Literal["pause", "resume"], Sequence[str]], None] | None = None
    labels: Callable[[Any], Mapping[str, str]] | None = None
    again: Callable[[Frame], tuple[Frame, int]] | None = None


class MisfitError(Exception):
    """A stored frame does not fit the code any more; says what differs."""


class Code(Protocol):
    """Code with named stops. Each question enters it again; it keeps nothing.

    User code between two stops runs synchronously inside of ``begin`` and ``go_on``. ``data`` is
    the value that all threads of the instance share; the code changes it in place.

    Attributes:
        name: what frames call it.
        version: higher than those before; 0: its versions are not counted.
        stops: by name.
        takes: the names of its arguments, and the types by which they are decoded.
        gives: the type of its result.
        data: the type of the data that its instances have; ``None`` for a helper, which is only
            called by other code.
        uses: further code that it may call, run in threads or start children of, by name: what a
            stored frame may name.
        options: of its instances.
    """

    name: str
    version: int
    stops: Mapping[str, Stop]
    takes: Mapping[str, Any]
    gives: Any
    data: Any
    uses: "Mapping[str, Code]"
    options: CodeOptions

    def begin(self, frame: Frame, data: Any) -> Reached:
        """Run from the beginning to the first stop. ``frame`` has the arguments."""

    def ask(self, frame: Frame, data: Any) -> "Operation":
        """Return what is to be done at the stop of ``frame``, with arguments as of now.

        Raises:
            MisfitError: the frame does not fit.
            BaseException: what evaluating the arguments raises; to be given to ``go_on`` as the
                outcome.
        """

    def go_on(self, frame: Frame, data: Any, outcome: "Outcome") -> Reached:
        """Give the stop of ``frame`` its outcome, and run to the next one.

        Code that returns ``At(frame)`` stays at its stop: what it asks for there is done again,
        under the same key.

        Raises:
            MisfitError: the frame does not fit.
        """

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless ``frame`` can be entered; runs no user code."""


def stops_of(code: Code) -> Iterator[Stop]:
    """Return all stops at which instances of a code may stand."""
    codes = [code]
    for each in codes:
        yield from each.stops.values()
        for stop in each.stops.values():
            codes += [other for other in stop.runs if other not in codes]
