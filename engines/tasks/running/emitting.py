"""Emits events."""

from collections.abc import Mapping
from typing import Any

from flowstate import InvalidInputError
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish, published
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["EMITTED", "emit"]

EMITTED = "emitted"  # The label of an event that a task has published.


async def emit(arguments: Mapping[str, Any], call: Call) -> Any:
    """Publish an event, once for each key of the call, and return it as JSON.

    Args:
        arguments: the attributes and the data. Without an ``id`` it is the key of the call, without
            a ``source`` the instance.
        call: of the task.

    Raises:
        TaskError: ``validation``: it is no event.
    """
    engine, document = call.runtime.engine, call.document
    source = f"/{document.namespace}/{document.name}/{call.instance}"
    given = {name: value for name, value in arguments.items() if value is not None}
    at = engine.clock.now().isoformat()
    attributes = {"id": call.key, "source": source, "time": at, **given, "specversion": "1.0"}
    try:
        event = CloudEvent.from_json(attributes)
        keep, labels = call.runtime.keep_events, {EMITTED: call.instance}
        if await publish(engine, event, keep=keep, labels=labels):
            return event.to_json()
    except InvalidInputError as error:
        raise TaskError.of("validation", str(error)) from error
    return (await published(engine, event.source, event.id) or event).to_json()
