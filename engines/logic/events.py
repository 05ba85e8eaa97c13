"""Events that states wait for and send, as CloudEvents."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import attrs
import msgspec
from msgspec import Struct

from flowstate import InvalidInputError
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import EVENTS, publish
from flowstate.engines.kernel.code import Update
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.operations import Handler, Wait
from flowstate.engines.kernel.outside import Events, Published

__all__ = ["Event", "Gathered", "Looked", "as_event", "emit", "message_name", "wait_for"]

OWN = ("id", "source", "subject", "time", "datacontenttype", "dataschema")
MOST_SKIPPED = 100


@attrs.frozen(init=False)
class Event:
    """A CloudEvent; or a filter for such ones.

    Args:
        type: of the event.
        data: JSON; of no use in a filter.
        **context: further attributes and extensions, by name; in a filter globs, all of which the
            event must match.
    """

    type: str
    data: Any
    context: Mapping[str, Any]

    def __init__(self, type: str, data: Any = None, /, **context: Any) -> None:  # noqa: A002
        if not isinstance(type, str) or not type:
            raise InvalidInputError("type", f"must be a text, not {type!r}")
        self.__attrs_init__(type, data, context)

    @property
    def context_globs(self) -> dict[str, str]:
        """The attributes that an event must have besides its type, as globs."""
        return {name: str(each) for name, each in self.context.items()}


def as_event(value: Mapping[str, Any]) -> Event:
    """Return the event that a CloudEvent in JSON is."""
    found = CloudEvent.from_json(value)
    own = {name: value[name] for name in OWN if name in value}
    return Event(found.type, found.data, **own, **found.extensions)


def as_cloud_event(event: Event, key: str, source: str) -> CloudEvent:
    """Return a CloudEvent that has this id and source, unless the event has its own."""
    own = {"id": key, "source": source} | {
        name: each for name, each in event.context.items() if name in OWN
    }
    extensions = {name: each for name, each in event.context.items() if name not in OWN}
    return CloudEvent(**own, type=event.type, data=event.data, extensions=extensions)


async def emit(event: Event) -> str:
    """Publish an event, once for each step; return its id. To be run: ``Run(emit, Event(...))``.

    Raises:
        InvalidInputError: it is no event, or too large.
    """
    step = current_step()
    made = as_cloud_event(event, step.key, f"flowstate/{step.instance}")
    await publish(step.engine, made)
    return made.id


class Looked(Struct, omit_defaults=True):
    """Which events of a type an instance has looked at.

    Attributes:
        last: the revision of the last one.
        skipped: those before it that it was not given.
    """

    last: int = 0
    skipped: list[int] = msgspec.field(default_factory=list)

    @property
    def after(self) -> int | None:
        """The revision after which there are some that it was not given; ``None``: all."""
        return min([self.last, *(rev - 1 for rev in self.skipped)]) or None

    def is_new(self, rev: int) -> bool:
        """Return whether it was not given an event."""
        return rev > self.last or rev in self.skipped

    def note(self, rev: int, *, is_given: bool) -> None:
        """Note an event that it looks at."""
        if rev in self.skipped and is_given:
            self.skipped.remove(rev)
        elif rev > self.last:
            self.last = rev
            self.skipped = (self.skipped + ([] if is_given else [rev]))[-MOST_SKIPPED:]


class Gathered(Struct, omit_defaults=True):
    """What a wait has gathered so far.

    Attributes:
        filters: the attributes of each event that is waited for, with globs.
        wanted: how many of them.
        found: events by the number of their filter.
        after: the revision up to which all was looked at; ``None``: nothing.
    """

    filters: list[dict[str, str]]
    wanted: int
    found: dict[int, dict[str, Any]] = msgspec.field(default_factory=dict)
    after: int | None = None

    @property
    def types(self) -> set[str]:
        """The types of the events that still count."""
        return {
            each["type"] for number, each in enumerate(self.filters) if number not in self.found
        }

    @property
    def is_over(self) -> bool:
        """Whether it has what it waits for."""
        return len(self.found) >= self.wanted

    def give(self, event: dict[str, Any]) -> bool:
        """Keep an event if a filter lets it through; return whether it does."""
        for number, wanted in enumerate(self.filters):
            if number not in self.found and _is_met(wanted, event):
                self.found[number] = event
                return True
        return False

    def look(self, events: Sequence[Published], looked: dict[str, Looked]) -> None:
        """Look at events in their order, until it is over."""
        for rev, event in ((each.rev, each.event) for each in events):
            if self.is_over:
                return
            known = looked.setdefault(event["type"], Looked())
            if known.is_new(rev):
                known.note(rev, is_given=self.give(event))
            self.after = rev


def _is_met(wanted: Mapping[str, str], event: Mapping[str, Any]) -> bool:
    return all(
        name in event and fnmatchcase(str(event[name]), glob) for name, glob in wanted.items()
    )


def message_name(kind: str) -> str:
    """Return what events of a type are called that are sent to one instance only."""
    return f"event {kind.replace('/', '|').replace('#', '|')}"


def wait_for(
    name: str,
    gathered: Gathered,
    looked: Mapping[str, Looked],
    timeout: timedelta | None,
    since: int | None,
) -> Wait:
    """Return the operation that waits for what is missing, of events after a revision."""
    types = sorted(gathered.types)
    after = gathered.after
    if after is None:
        known = [looked.get(each, Looked()).after for each in types]
        after = since if None in known else min(each for each in known if each)
    sent = [Handler(message_name(each), Update(dict[str, Any], _taken)) for each in types]
    published = Events(EVENTS, *(("type", each) for each in types), after=after)
    return Wait(name, [published, *sent], timeout)


def _taken(_data: Any, _event: Any) -> None:
    """Let an event count; the wait itself looks whether it is of use."""
