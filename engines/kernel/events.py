"""Events: published once, kept for a while, and found by instances that wait for such ones."""

import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw

from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    Forget,
    InvalidInputError,
    Put,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.engines.kernel.outside import PLAIN, Event, event_topic, topic_label
from flowstate.engines.kernel.telling import tell
from flowstate.ground.limits import check_id

__all__ = ["EVENT", "Found", "events", "publish", "run_event"]

EVENT = "workflows.event"  # The flow of an event.
PREFIX = "flowstate.event."  # Of its id.
LABEL = "event"
TOPIC = "event."  # What keys of labels of events begin with.
VALUE, KEPT, AFTER, AT = "event", "kept", "after", "at"  # Values of its state.
MOST_TOPICS = 60
LONGEST = timedelta(days=36_500)


Found = tuple[int, str, datetime, Raw]
"""An event: what tells the order, a digest of its key, when it was published, and itself."""


async def publish(engine: Engine, event: Any, key: str, keep: timedelta) -> bool:
    """Do ``Kernel.publish``, which says what is promised."""
    if not isinstance(keep, timedelta) or not timedelta(0) <= keep <= LONGEST:
        raise InvalidInputError("keep", f"must be from 0 to {LONGEST.days} days, not {keep!r}")
    name, key = type(event).__name__, check_id("key", key or uuid.uuid4().hex)
    digest = sha256(f"{name} {key}".encode()).hexdigest()[:32]
    ctx = StateContext(State(PREFIX + digest))
    ctx.put(event, VALUE)
    ctx.put(keep, KEPT)
    ctx.put(await engine.head(), AFTER)
    ctx.set_label(LABEL, name)
    for topic in _topics(name, ctx.current.values[VALUE]):
        ctx.set_label(*topic_label(TOPIC, topic))
    try:
        await engine.start(ctx, EVENT)
    except RevisionMismatchError:
        return False
    return True


def _topics(name: str, raw: Raw) -> list[str]:
    """Return the topics of an event: one for all of its class, and one for each plain field."""
    fields = msgspec.json.decode(raw)
    if not isinstance(fields, dict):
        raise InvalidInputError("event", "must be an object with fields")
    plain = [each for each in fields.items() if isinstance(each[1], PLAIN)]
    return [event_topic(name), *(event_topic(name, *each) for each in plain[:MOST_TOPICS])]


async def run_event(ctx: StateContext, engine: Engine) -> Command[Any]:
    """Tell those that wait for an event, keep it for its time, and forget it."""
    if ctx.delayed:
        return Commit(End(ctx), Forget(ctx))
    state = ctx.committed
    ctx.put(await _published_at(engine, state), AT)
    await tell(engine, *_topics(state.labels[LABEL], state.values[VALUE]))
    return Commit(Put(ctx), Delay(ctx, EVENT, after=ctx.get(timedelta, KEPT)))


async def events(engine: Engine, source: Event, since: datetime) -> AsyncIterator[Found]:
    """Iterate over the events that a source waits for and that were published since a time."""
    key, text = topic_label(TOPIC, source.topic)
    async for state in engine.states(labels={key: text}, latest_only=True, since_time=since):
        at, raw = await _published_at(engine, state), state.values[VALUE]
        if at >= since and source.is_met_by(msgspec.json.decode(raw)):
            yield state.get(int, AFTER), state.id.removeprefix(PREFIX), at, raw


async def _published_at(engine: Engine, state: State) -> datetime:
    """Return when an event was committed first; recovery may have touched it since."""
    if AT not in state.values:
        async for each in engine.history(state.id):
            if each.rev > state.get(int, AFTER) and each.committed_at is not None:
                return each.committed_at
    return state.get(datetime, AT)
