"""The data of an instance: what all its threads share."""

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

__all__ = ["Happened", "TaskData", "What", "new_revision"]

What = Literal[
    "created",
    "started",
    "suspended",
    "resumed",
    "retried",
    "cancelled",
    "faulted",
    "completed",
    "correlation-started",
    "correlation-completed",
]
"""What can happen to a task, and to the whole; as the lifecycle events are called."""


class Happened(Struct, frozen=True, omit_defaults=True):
    """Something that has happened to a task.

    Attributes:
        what: see :data:`What`.
        task: the JSON pointer of the task; empty: it happened to the whole.
        at: when.
        more: what its lifecycle event has besides, such as ``error`` and ``output``.
    """

    what: What
    task: str
    at: datetime
    more: dict[str, Any] = msgspec.field(default_factory=dict)


class TaskData(Struct, omit_defaults=True):
    """The data of an instance of a document.

    Attributes:
        definition: the key of the document: ``namespace/name:version``.
        input: as it was given, before it was transformed.
        started_at: when it was started.
        context: ``$context``, which ``export`` sets.
        exports: how often that was set, so that two branches do not overwrite each other.
        keys: by which its events correlate.
        trail: what has happened since the revision before; each revision has its own.
        before: how many things had happened before those of the trail, so each has a number.
        after: events that were published after this revision count; ``None``: after the first one
            of the instance.
    """

    definition: str
    input: Any
    started_at: datetime
    context: Any = None
    exports: int = 0
    keys: dict[str, Any] = msgspec.field(default_factory=dict)
    trail: list[Happened] = msgspec.field(default_factory=list)
    before: int = 0
    after: int | None = None


def new_revision(data: TaskData) -> None:
    """Let the next revision have a trail of its own."""
    data.before += len(data.trail)
    data.trail = []
