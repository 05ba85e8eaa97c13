"""What is stored of an instance of a machine."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from flowstate.engines.kernel.code import Frame
from flowstate.engines.kernel.errors import StoredError
from flowstate.engines.logic.events import Gathered, Looked
from flowstate.engines.logic.problems import Retry

__all__ = ["Answer", "Entry", "Held", "Limit", "Position", "Ran", "Want", "Woken"]

V = TypeVar("V")
Does = Literal["to", "stay", "done", "cancel", "sleep", "run", "all", "any", "await"]
Limit = Literal["sleep", "wait", "state", "machine", "hard"]
Kind = Literal["entered", "slept", "gave", "timeout", "cancelled"]


class Entry(Struct, frozen=True, omit_defaults=True):
    """An entry of the log of an instance.

    Attributes:
        state: which state it is about.
        text: for people.
        level: as of ``logging``.
        fields: JSON.
    """

    state: str
    text: str
    level: str = "info"
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


class Ran(Struct, frozen=True, omit_defaults=True):
    """What is to be run; ``what`` names it."""

    what: str
    args: Sequence[Raw] = ()
    kwargs: dict[str, Raw] = msgspec.field(default_factory=dict)
    retry: Retry | None = None
    timeout: float | None = None
    detached: bool = False


class Want(Struct, omit_defaults=True):
    """What a state wants next.

    Attributes:
        do: what it is.
        form: the class that the state has returned.
        to: the state.
        seconds: that it may take, or that a sleep takes.
        limit: what is over first.
        left: seconds until then, when it was begun.
        runs: what is run.
        at_once: how many of them run at once.
        strict: the first that fails ends the others.
        gathered: what has come of events.
        transform: jq, to be done when it has come.
        result: of the machine; none: its values.
        fails: the problem with which it fails in the end.
    """

    do: Does
    form: str = ""
    to: str = ""
    seconds: float | None = None
    limit: Limit = "sleep"
    left: float | None = None
    runs: list[Ran] = msgspec.field(default_factory=list)
    at_once: int = 1
    strict: bool = True
    gathered: Gathered | None = None
    transform: str = ""
    result: list[Raw] = msgspec.field(default_factory=list)
    fails: StoredError | None = None


class Woken(Struct, frozen=True, omit_defaults=True):
    """Why a state is woken: for what kind of reason, and with what."""

    kind: Kind = "entered"
    problem: StoredError | None = None
    values: list[Raw] = msgspec.field(default_factory=list)
    index: int = 0
    what: Limit = "state"


class Position(Struct, omit_defaults=True):
    """Where an instance stands in a state.

    Attributes:
        wake: why it was woken last.
        want: what it wanted last.
        is_doing: it waits for that; otherwise it is to be told the wake.
        times: when what is over; of a machine that has not begun they are not known.
        is_begun: they are.
        is_cancelled: the state is to be told so next.
        moves: how many states were entered since something has come from outside.
        ending: what the machine ends with as soon as it is cleaned up.
        error: the same.
        failed: where it has stood before that error.
    """

    wake: Woken = Woken()
    want: Want | None = None
    is_doing: bool = False
    times: dict[Limit, datetime] = msgspec.field(default_factory=dict)
    is_begun: bool = False
    is_cancelled: bool = False
    moves: int = 0
    ending: list[Raw] = msgspec.field(default_factory=list)
    error: StoredError | None = None
    failed: Frame | None = None


class Held(Struct, Generic[V], omit_defaults=True):
    """The data of an instance.

    Attributes:
        values: as its states see them.
        variables: of the instance.
        log: entries of this revision.
        logged: how many there were before these.
        looked: the events that it has looked at, by type.
        runs: what runs in parallel now.
        begun: how many of these were begun.
        failed: which of them have failed.
        caught: problems in a row.
        fails: the problem with which it fails in the end.
        is_cancelled: it was told so.
        after: events count after this revision; ``None``: after the first one of the instance.
    """

    values: V
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    log: list[Entry] = msgspec.field(default_factory=list)
    logged: int = 0
    looked: dict[str, Looked] = msgspec.field(default_factory=dict)
    runs: list[Ran] = msgspec.field(default_factory=list)
    begun: int = 0
    failed: list[dict[str, Any]] = msgspec.field(default_factory=list)
    caught: int = 0
    fails: StoredError | None = None
    is_cancelled: bool = False
    after: int | None = None

    def run(self, runs: list[Ran]) -> None:
        """Begin with what runs in parallel; it replaces what has run before."""
        self.runs, self.begun, self.failed = runs, 0, []


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a state has answered.

    Attributes:
        position: with what it wants next.
        values: as it left them.
        log: its entries.
        problem: that it has raised.
        crash: any other error that it has raised.
    """

    position: Position
    values: Raw = Raw(b"null")
    log: list[Entry] = msgspec.field(default_factory=list)
    problem: StoredError | None = None
    crash: StoredError | None = None
