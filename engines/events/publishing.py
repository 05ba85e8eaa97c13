"""Publishes CloudEvents: each is stored once, and found by those that wait for such ones."""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec

from flowstate import Engine, InvalidInputError, StateNotFoundError
from flowstate.engines.events.cloud_event import CloudEvent, text_of
from flowstate.engines.kernel.events import VALUE, event_id
from flowstate.engines.kernel.events import publish as publish_any
from flowstate.ground.frozen import EMPTY

__all__ = ["EVENTS", "FOUND_BY", "MORE", "publish", "published"]

EVENTS = "CloudEvent"  # What their class is called in a store.
MORE = ("data", "more")  # The field of an event that has more data than it is found by.
FOUND_BY = ("type", "source", "subject")
MOST_FIELDS, MOST_BYTES = 20, 128 * 1024


async def publish(
    engine: Engine,
    event: CloudEvent,
    *,
    keep: timedelta = timedelta(days=1),
    labels: Mapping[str, str] = EMPTY,
) -> bool:
    """Publish an event, for all instances that wait for such a one.

    It returns when the event is stored; instances are told in the background, in any case.

    Args:
        engine: on which a kernel is open.
        event: that is known by its source and id as long as it is kept.
        keep: how long it is kept at least: an instance sees the events since its start, as far as
            they are kept.
        labels: of its state.

    Returns:
        Whether it was published; ``False`` if it is known.

    Raises:
        InvalidInputError: JSON cannot hold the event, it has more than 128 KiB, or is nested so
            deeply that an instance could not hold it; or a bad ``keep``.
        UnknownFlowError: no kernel was opened on this engine.
        CommitUnknownError: it could not be found out whether it was published.
    """
    value = event.to_json()
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError) as error:
        raise InvalidInputError("event", str(error)) from error
    if size > MOST_BYTES:
        raise InvalidInputError("event", f"must be at most {MOST_BYTES} bytes as JSON")
    key, fields = _key(event.source, event.id), _fields(event)
    return await publish_any(engine, value, key, keep, name=EVENTS, fields=fields, labels=labels)


async def published(engine: Engine, source: str, id: str) -> CloudEvent | None:
    """Return an event that is kept; ``None`` if there is none."""
    try:
        state = await engine.get_state(event_id(EVENTS, _key(source, id)))
    except StateNotFoundError:
        return None
    return CloudEvent.from_json(state.get(dict[str, Any], VALUE))


def _key(source: str, id: str) -> str:
    return sha256(msgspec.json.encode([source, id])).hexdigest()


def _fields(event: CloudEvent) -> list[tuple[str, Any]]:
    """Return by what it is found: attributes, and texts and numbers of its data."""
    value = event.to_json()
    names = [name for name in (*FOUND_BY, *event.extensions) if name in value]
    found: list[tuple[str, Any]] = [(name, text_of(value[name])) for name in names]
    data = event.data if isinstance(event.data, dict) else {}
    plain = (str, int, float)
    found += [(f"data.{name}", each) for name, each in data.items() if type(each) in plain]
    return found if len(found) < MOST_FIELDS else [*found[: MOST_FIELDS - 1], MORE]
