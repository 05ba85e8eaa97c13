"""Where a thread of an instance stands in its document: the stored form."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.tasks.pointers import look_up as found_at
from flowstate.engines.tasks.pointers import parts_of, pointer_of
from flowstate.engines.tasks.running.listening import Listening, Seen

__all__ = [
    "AT",
    "BranchEnd",
    "GIVEN",
    "Level",
    "Position",
    "Wanted",
    "child_of",
    "decode",
    "encode",
    "look_up",
    "name_of",
]

AT = "at"  # What a frame calls the position.

Phase = Literal["new", "before", "enter", "body", "only", "done", "after"]
Does = Literal["call", "emit", "listen", "wait", "retry", "fork", "workflow", "rest"]


# phase   means                                                    left by
# new     it has just begun                                        skipped, or → before
# before  a list of tasks of an extension runs before it           the last one has ended → enter
# enter   its input is to be transformed                           → body, only, done
# body    its list of tasks runs, or what it wants is done         → done
# only    a single other task runs in its place                    that has ended → done
# done    it has an output                                         that is transformed → after
# after   a list of tasks of an extension runs after it            the last one has ended → gone
class Level(Struct, omit_defaults=True):
    """A task that has begun and has not ended; the whole document is one, too.

    Attributes:
        task: the JSON pointer of the task; empty: the whole document.
        started_at: when it has begun.
        nth: so many tasks its outer level had begun before it.
        raw: its input as given. Stored only if it is not the value of the outer level, and not
            the input of the instance.
        input: that, transformed. Stored only if it is not the same.
        value: what the next task of its list gets. Stored only if it is not the input.
        phase: see the table.
        list: the JSON pointer of the tasks that run within it.
        index: of the next one of these.
        begun: how many tasks have begun within it.
        exited: its list was left before its end.
        extension: which one of the extensions runs.
        output: while extensions run after it.
        then: what is to follow instead of what the task says.
        deadline: when it has taken too long.
        variables: that it gives to the tasks within it.
        rest: items that are still to be iterated over, the next one last.
        gathered: what the passes have put out.
        passes: how many there were.
        listening: how far it has come that listens.
        attempts: of ``try``.
        attempt_deadline: when the present attempt has taken too long.
    """

    task: str
    started_at: datetime
    nth: int = 0
    raw: Any = UNSET
    input: Any = UNSET
    value: Any = UNSET
    phase: Phase = "new"
    list: str = ""
    index: int = 0
    begun: int = 0
    exited: bool = False
    extension: int = 0
    output: Any = UNSET
    then: str = ""
    deadline: datetime | None = None
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    rest: Any = UNSET
    gathered: Any = UNSET
    passes: int = 0
    listening: Listening | None = None
    attempts: int = 0
    attempt_deadline: datetime | None = None


class Wanted(Struct, omit_defaults=True):
    """What the innermost task wants done.

    Attributes:
        does: which kind of effect.
        name: of the function.
        args: evaluated; unset: they are evaluated only when it is done, since they need secrets.
        until: when a sleep ends.
    """

    does: Does
    name: str = ""
    args: Any = UNSET
    until: datetime | None = None


class Position(Struct, omit_defaults=True):
    """Where a thread stands.

    Attributes:
        levels: from the outside in.
        wants: what is to be done next; ``None``: go on by itself.
        gave: what it has given that was wanted.
        failed: the error that it has raised, as problem details.
        timed_out: that has ended since the time of a level was over.
        path: of the branch, for the keys of effects.
        is_branch: of a fork.
        is_racing: the first branch that ends wins.
        seen: the events that it has taken.
        variables: that a branch has from outside.
        extended: ``$task`` in a branch within an extension.
        fetched: definitions of functions from catalogs, by their pointers.
    """

    levels: list[Level]
    wants: Wanted | None = None
    gave: Any = UNSET
    failed: dict[str, Any] | None = None
    timed_out: bool = False
    path: str = ""
    is_branch: bool = False
    is_racing: bool = False
    seen: Seen = msgspec.field(default_factory=Seen)
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    extended: dict[str, Any] | None = None
    fetched: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells an effect here from all others of the instance, over all attempts."""
        numbers = ".".join(str(level.nth) for level in self.levels)
        return f"{self.path}{numbers}{self.levels[-1].task}"

    @property
    def is_waiting(self) -> bool:
        """Whether what is wanted was not done yet."""
        is_done = self.gave is not UNSET or self.failed is not None
        return self.wants is not None and not is_done

    def variables_inside(self) -> dict[str, Any]:
        """Return all variables that a task within the innermost level has from outside."""
        found = dict(self.variables)
        for level in self.levels:
            found |= level.variables
        return found

    @property
    def deadline(self) -> datetime | None:
        """When the first of the levels has taken too long."""
        return min(self.deadlines(), default=None)

    def deadlines(self) -> Iterator[datetime]:
        """Iterate over all times at which a level has taken too long."""
        for level in self.levels:
            for at in (level.deadline, level.attempt_deadline):
                if at is not None:
                    yield at


class BranchEnd(Struct, omit_defaults=True):
    """How a branch has ended.

    Attributes:
        output: of its task.
        seen: the events that it has taken.
        is_end: the whole document ends with it.
    """

    output: Any
    seen: Seen
    is_end: bool = False


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Position)


GIVEN: Any = object()  # Stands for the input of the instance.


def encode(position: Position, given: Any = GIVEN) -> Raw:
    """Return the stored form, in which no value is twice.

    Args:
        position: is not changed.
        given: the input of the instance, which is stored elsewhere; or what ``decode`` was given.
    """
    outer: Any = given
    levels = []
    for level in position.levels:
        same = {"raw": level.raw is outer, "input": level.input is level.raw}
        same["value"] = level.value is level.input
        unset = {name: UNSET for name, is_same in same.items() if is_same}
        levels.append(msgspec.structs.replace(level, **unset) if unset else level)
        outer = level.value
    return Raw(_encoder.encode(msgspec.structs.replace(position, levels=levels)))


def decode(raw: Raw, given: Any = GIVEN) -> Position:
    """Return what was encoded, with the input of the instance.

    Raises:
        MisfitError: it is no position.
    """
    try:
        position = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise MisfitError(f"no position in a document: {error}") from error
    outer = given
    for level in position.levels:
        level.raw = outer if level.raw is UNSET else level.raw
        level.input = level.raw if level.input is UNSET else level.input
        level.value = level.input if level.value is UNSET else level.value
        outer = level.value
    return position


def child_of(pointer: str, *names: str | int) -> str:
    """Return the JSON pointer of what is within another one."""
    return pointer + pointer_of(names)


def name_of(pointer: str) -> str:
    """Return the last part of a JSON pointer."""
    return "".join(parts_of(pointer)[-1:])


def look_up(content: Any, pointer: str) -> Any:
    """Return what a JSON pointer refers to.

    Raises:
        MisfitError: there is nothing.
    """
    try:
        return found_at(content, pointer)
    except (LookupError, TypeError, ValueError):
        raise MisfitError(f"the document has nothing at {pointer}") from None
