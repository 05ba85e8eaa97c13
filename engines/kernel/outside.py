"""What an instance can wait for besides messages: the end of another one, and events.

Each is about a *topic*. An instance that waits has a label for each of its topics, and looks in the
store only after these were committed. Who brings news of a topic commits it first, and then finds
by the label whom to tell. So one of the two always sees the other.
"""

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any

import attrs
import msgspec
from msgspec import Struct

from flowstate import InvalidInputError
from flowstate.engines.kernel.code import Code
from flowstate.ground.limits import check_id

__all__ = [
    "AWAITS",
    "Event",
    "Events",
    "OF_EVENTS",
    "Outside",
    "PLAIN",
    "Published",
    "Result",
    "end_topic",
    "event_topic",
    "topic_label",
]

AWAITS = "awaits."  # What keys of labels of instances that wait begin with.
OF_EVENTS = "event."  # The same, of events.
PLAIN = (str, int, float, bool, type(None))  # Values by which events can be looked up.
LONGEST = 100  # Characters of a topic in a label, for people.


@attrs.frozen(init=False)
class Outside:
    """A source of a wait that is no message.

    Attributes:
        gives: the type of its value.
        kind: what it is called among the sources of a wait.
        topics: what it is about.
        about: the id of the instance, the values of the event, or which events count.
    """

    gives: Any
    kind: str
    topics: tuple[str, ...]
    about: Any

    @property
    def rough(self) -> tuple[str, ...]:
        """Topics of which there are fewer, and of which there may be more news."""
        return self.topics


class Result(Outside):
    """A source of a wait: what another instance returns.

    It raises what ``Kernel.result`` would: ``InstanceFailedError`` or ``InstanceCancelledError``.
    An instance that is not there, since it was not started yet or is forgotten, is waited for.

    Args:
        code: the workflow of that instance.
        id: of it.

    Raises:
        InvalidInputError: they are not.
    """

    def __init__(self, code: Code, id: str) -> None:
        if not hasattr(code, "gives") or not isinstance(id, str):
            raise InvalidInputError("result", "needs a workflow, and the id of an instance")
        check_id("result", id)
        self.__attrs_init__(code.gives, f"result of {code.name}", (end_topic(id),), id)

    def __str__(self) -> str:
        return f"the result of {self.about}"


class Event(Outside):
    """A source of a wait: an event that was published, see ``Kernel.publish``.

    Args:
        gives: its class.
        **fields: which values it has, by their names in JSON. Events are found by the first one
            of these, so write the rarest value first.

    Raises:
        InvalidInputError: JSON cannot hold a value, or the class has no such field.
    """

    def __init__(self, gives: Any, /, **fields: Any) -> None:
        known = getattr(gives, "__struct_encode_fields__", fields)
        if unknown := sorted(fields.keys() - set(known)):
            raise InvalidInputError("fields", f"{gives.__name__} has no {unknown[0]!r}")
        try:
            plain = msgspec.json.decode(msgspec.json.encode(fields))
        except (TypeError, ValueError) as error:
            raise InvalidInputError("fields", str(error)) from error
        if not isinstance(next(iter(plain.values()), None), PLAIN):
            raise InvalidInputError("fields", "must begin with a text, a number, a bool or None")
        topic = event_topic(gives.__name__, *next(iter(plain.items()), ()))
        self.__attrs_init__(gives, f"event {gives.__name__}", (topic,), plain)

    def __str__(self) -> str:
        fields = (f"{key}={value!r}" for key, value in self.about.items())
        return " ".join([self.gives.__name__, *fields])

    def is_met_by(self, event: Any) -> bool:
        """Return whether an event, as JSON, has the values."""
        return all(key in event and event[key] == value for key, value in self.about.items())


class Published(Struct, frozen=True):
    """An event that was published.

    Attributes:
        rev: the revision that has brought it; tells the order of all events.
        at: when that was.
        event: as JSON.
    """

    rev: int
    at: datetime
    event: Any


class Events(Outside):
    """A source of a wait: all events of a class after a revision, the oldest first.

    It gives a list of :class:`Published`, never an empty one. When there are many, it has the first
    of them: ask for those after the last one.

    Args:
        name: of the class.
        *fields: names and values of fields, at most 20; an event counts if it has one of them.
            Without any, all events of the class count.
        after: a revision; ``None``: the first one of the instance that waits.
        without: revisions of events that do not count.
    """

    def __init__(
        self,
        name: str,
        *fields: tuple[str, Any],
        after: int | None = None,
        without: Iterable[int] = (),
    ) -> None:
        topics = [event_topic(name, *each) for each in fields] or [event_topic(name)]
        topics, counts = list(dict.fromkeys(topics)), (after, frozenset(without))
        self.__attrs_init__(list[Published], f"events {name}", tuple(topics), counts)

    @property
    def rough(self) -> tuple[str, ...]:
        """The class alone."""
        return (event_topic(self.kind.removeprefix("events ")),)

    def __str__(self) -> str:
        return f"one of {', '.join(self.topics)}"


def end_topic(id: str) -> str:
    """Return the topic of the end of an instance."""
    return f"end of {id}"


def event_topic(name: str, *field: Any) -> str:
    """Return the topic of events of a class, or of those of them that have a value in a field."""
    if not field:
        return f"event {name}"
    key, value = field
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of numbers.
    return f"event {name} {key}={msgspec.json.encode(value).decode()}"


def topic_label(prefix: str, topic: str) -> tuple[str, str]:
    """Return a label for a topic."""
    return f"{prefix}{sha256(topic.encode()).hexdigest()[:32]}", topic[:LONGEST]
