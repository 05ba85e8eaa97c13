"""Posts lifecycle events, and the events that tasks emit, to a server."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from flowstate import Engine, RetryPolicy, State
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.http import structured
from flowstate.engines.events.publishing import EVENTS
from flowstate.engines.kernel.events import AT, VALUE
from flowstate.engines.kernel.events import LABEL as EVENT_LABEL
from flowstate.engines.kernel.instance import WORKFLOW
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.running.code import NAME
from flowstate.engines.tasks.running.emitting import EMITTED
from flowstate.engines.tasks.running.lifecycle import PREFIX, Trails, lifecycle_event
from flowstate.recovery import Consumer

__all__ = ["Deliver", "forwarder", "posting"]

logger = logging.getLogger("flowstate.engines")

PATIENT = RetryPolicy(attempts=1_000_000, first=0.5, longest=60.0)
TAKEN, REFUSED = range(200, 300), {*range(400, 500)} - {408, 425, 429}

Deliver = Callable[[CloudEvent], Awaitable[object]]


def posting(outgoing: Outgoing, url: str) -> Deliver:
    """Return what posts an event to a URL, in structured mode; what that refuses is left out."""

    async def post(event: CloudEvent) -> None:
        headers, body = structured(event)
        answer = await outgoing.request("POST", url, headers=headers, content=body)
        if answer.status in REFUSED:
            logger.warning("%s refuses the event %r: %d", url, event.id, answer.status)
        elif answer.status not in TAKEN:
            raise ConnectionError(f"{url} has answered {answer.status}")

    return post


def forwarder(
    engine: Engine,
    deliver: Deliver,
    *,
    name: str = "tasks.lifecycle",
    prefix: str = PREFIX,
    emitted: bool = False,
    **options: Any,
) -> Consumer:
    """Return what delivers each lifecycle event at least once, in order; use it as ``async with``.

    Of all processes one delivers at a time. How far it has come is in the store.

    Args:
        engine: open.
        deliver: is given each event. What it raises is tried again, for as long as it takes.
        name: of what is stored.
        prefix: of the types of lifecycle events.
        emitted: deliver the events that tasks emit as well.
        **options: of ``recovery.Consumer``, such as ``since``.
    """
    trails, rev, left = Trails(), 0, list[CloudEvent]()

    async def handle(state: State) -> None:
        nonlocal rev, left
        if rev != state.rev:  # Else it was tried before.
            rev, left = state.rev, _events(state, trails, prefix)
        while left:
            with engine.clock.working():
                await deliver(left[0])
            del left[0]

    labels = [{WORKFLOW: NAME}, *([{EVENT_LABEL: EVENTS}] if emitted else [])]
    defaults = {"since": "now", "skip_gap": True, "retry": PATIENT, "internal": emitted}
    return Consumer(engine, name, handle, labels=labels, **{**defaults, **options})


def _events(state: State, trails: Trails, prefix: str) -> list[CloudEvent]:
    """Return the events that a revision tells of."""
    if state.labels.get(WORKFLOW) != NAME:
        is_new = EMITTED in state.labels and AT not in state.values
        is_new = is_new and state.transition.cause == "transit"
        return [CloudEvent.from_json(state.get(dict[str, Any], VALUE))] if is_new else []
    found = [lifecycle_event(state, *each, prefix=prefix) for each in trails.read(state)]
    return [each for each in found if each is not None]
