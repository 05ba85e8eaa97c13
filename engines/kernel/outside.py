"""What an instance can wait for besides messages: the end of another one, and events.

Each is about a *topic*. An instance that waits has a label for each of its topics, and looks in the
store only after these were committed. Who brings news of a topic commits it first, and then finds
by the label whom to tell. So whatever comes first, one of the two sees the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import attrs
import msgspec

from flowstate import InvalidInputError
from flowstate.engines.kernel.code import Code

__all__ = ["AWAITS", "Event", "Outside", "Result", "end_topic", "event_topic", "topic_label"]

AWAITS = "awaits."  # What keys of labels of instances that wait begin with.
LONGEST = 100  # Characters of a topic in a label, for people.


class Outside(ABC):
    """A source of a wait that is no message.

    Attributes:
        gives: the type of its value.
    """

    gives: Any

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is called among the sources of a wait."""

    @property
    @abstractmethod
    def topic(self) -> str:
        """What it is about."""


@attrs.frozen
class Result(Outside):
    """A source of a wait: what another instance returns.

    It raises what ``Kernel.result`` would: ``InstanceFailedError`` or ``InstanceCancelledError``.
    An instance that is not there, since it was not started yet or is forgotten, is waited for.

    Attributes:
        code: of that instance.
        id: of it.

    Raises:
        InvalidInputError: they are not.
    """

    code: Code
    id: str

    def __attrs_post_init__(self) -> None:
        if not hasattr(self.code, "gives") or not isinstance(self.id, str):
            raise InvalidInputError("result", "needs a workflow, and the id of an instance")

    @property
    def gives(self) -> Any:
        """What the code returns."""
        return self.code.gives

    @property
    def kind(self) -> str:
        """See the class above."""
        return f"result of {self.code.name}"

    @property
    def topic(self) -> str:
        """See the class above."""
        return end_topic(self.id)

    def __str__(self) -> str:
        return f"the result of {self.id}"


@attrs.frozen(init=False)
class Event(Outside):
    """A source of a wait: an event that was published, see ``Kernel.publish``.

    Attributes:
        gives: its class, by the name of which it was published.
        fields: which values it has, by their names in JSON. Events are found by the first one of
            these, so write the rarest value first.

    Raises:
        InvalidInputError: JSON cannot hold a value, or the class has no such field.
    """

    gives: Any
    fields: Mapping[str, Any]

    def __init__(self, gives: Any, /, **fields: Any) -> None:
        known = getattr(gives, "__struct_encode_fields__", fields)
        if unknown := sorted(fields.keys() - set(known)):
            raise InvalidInputError("fields", f"{gives.__name__} has no {unknown[0]!r}")
        try:
            plain = msgspec.json.decode(msgspec.json.encode(fields))
        except (TypeError, ValueError) as error:
            raise InvalidInputError("fields", str(error)) from error
        self.__attrs_init__(gives, plain)

    @property
    def kind(self) -> str:
        """See the class above."""
        return f"event {self.gives.__name__}"

    @property
    def topic(self) -> str:
        """See the class above."""
        return event_topic(self.gives.__name__, *next(iter(self.fields.items()), ()))

    def is_met_by(self, event: Any) -> bool:
        """Return whether an event, as JSON, has the values."""
        return all(name in event and event[name] == self.fields[name] for name in self.fields)

    def __str__(self) -> str:
        return " ".join([self.gives.__name__, *(f"{k}={v!r}" for k, v in self.fields.items())])


def end_topic(id: str) -> str:
    """Return the topic of the end of an instance."""
    return f"end of {id}"


def event_topic(name: str, *field: Any) -> str:
    """Return the topic of events of a class, or of those of them that have a value in a field."""
    return f"event {name}" + (
        f" {field[0]}={msgspec.json.encode(field[1]).decode()}" if field else ""
    )


def topic_label(prefix: str, topic: str) -> tuple[str, str]:
    """Return a label for a topic."""
    return f"{prefix}{sha256(topic.encode()).hexdigest()[:32]}", topic[:LONGEST]
