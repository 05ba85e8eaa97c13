"""Events: published once, kept for a while, and found by instances that wait for such ones."""

import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
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
from flowstate.engines.kernel.outside import (
    OF_EVENTS,
    PLAIN,
    Event,
    Published,
    event_topic,
    topic_label,
)
from flowstate.engines.kernel.telling import tell
from flowstate.engines.kernel.values import ROOM, kept
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id

__all__ = ["EVENT", "Found", "event_id", "events", "events_after", "publish", "run_event"]

EVENT = "workflows.event"  # The flow of an event.
PREFIX = "flowstate.event."  # Of its id.
LABEL = "event"
VALUE, KEPT, AFTER, AT = "event", "kept", "after", "at"  # Values of its state.
REV, TOPICS = "rev", "topics"
MOST_TOPICS = 60
MOST_AT_ONCE, MOST_BYTES = 100, 128 * 1024  # Of what a wait is given.
LONGEST = timedelta(days=36_500)


Found = tuple[int, str, datetime, Raw]
"""An event: what tells the order, a digest of its key, when it was published, and itself."""


async def publish(
    engine: Engine,
    event: Any,
    key: str,
    keep: timedelta,
    *,
    name: str = "",
    fields: Iterable[tuple[str, Any]] | None = None,
    labels: Mapping[str, str] = EMPTY,
) -> bool:
    """Do ``Kernel.publish``, which says what is promised.

    Args:
        engine: on which a kernel is open.
        event: see there.
        key: see there.
        keep: see there.
        name: of its class, if the event is JSON already.
        fields: by which it is found; ``None``: by all plain ones.
        labels: of its state.
    """
    if not isinstance(keep, timedelta) or not timedelta(0) <= keep <= LONGEST:
        raise InvalidInputError("keep", f"must be from 0 to {LONGEST.days} days, not {keep!r}")
    name, key = name or type(event).__name__, check_id("key", key or uuid.uuid4().hex)
    ctx = StateContext(State(event_id(name, key), labels={**labels, LABEL: name}))
    raw = kept("event", event, room=2 * ROOM)  # It lies within what other instances keep.
    ctx.put(raw, VALUE)
    ctx.put(keep, KEPT)
    ctx.put(await engine.head(), AFTER)
    found = _plain(ctx.current.values[VALUE]) if fields is None else fields
    topics = [event_topic(name), *(event_topic(name, *each) for each in found)][:MOST_TOPICS]
    ctx.put(topics, TOPICS)
    for topic in topics:
        ctx.set_label(*topic_label(OF_EVENTS, topic))
    try:
        await engine.start(ctx, EVENT)
    except RevisionMismatchError:
        return False
    return True


def event_id(name: str, key: str) -> str:
    """Return the id of the state of an event."""
    return PREFIX + sha256(f"{name} {key}".encode()).hexdigest()[:32]


def _plain(raw: Raw) -> list[tuple[str, Any]]:
    fields = msgspec.json.decode(raw)
    if not isinstance(fields, dict):
        raise InvalidInputError("event", "must be an object with fields")
    return [each for each in fields.items() if isinstance(each[1], PLAIN)]


async def run_event(ctx: StateContext, engine: Engine) -> Command[Any]:
    """Tell those that wait for an event, keep it for its time, and forget it."""
    if ctx.delayed:
        return Commit(End(ctx), Forget(ctx))
    rev, at = await _first(engine, ctx.committed)
    ctx.put(rev, REV)
    ctx.put(at, AT)
    await tell(engine, *ctx.get(list[str], TOPICS))
    return Commit(Put(ctx), Delay(ctx, EVENT, after=ctx.get(timedelta, KEPT)))


async def events(engine: Engine, source: Event, since: datetime) -> AsyncIterator[Found]:
    """Iterate over the events that a source waits for and that were published since a time."""
    key, text = topic_label(OF_EVENTS, source.topics[0])
    async for state in engine.states(labels={key: text}, latest_only=True, since_time=since):
        (_, at), raw = await _first(engine, state), state.values[VALUE]
        if at >= since and source.is_met_by(msgspec.json.decode(raw)):
            yield state.get(int, AFTER), state.id.removeprefix(PREFIX), at, raw


async def events_after(
    engine: Engine, topics: Sequence[str], after: int, without: Collection[int], scanned: int
) -> list[Published]:
    """Return the first events of some topics that were published after a revision.

    Args:
        engine: open.
        topics: of one of them.
        after: the revision.
        without: revisions of some that do not count.
        scanned: the states of all others were last changed after this revision.
    """
    labels, found = [dict([topic_label(OF_EVENTS, each)]) for each in topics], dict[int, Raw]()
    times = dict[int, datetime]()
    async for state in engine.states(labels=labels, latest_only=True, since_rev=scanned):
        rev, at = await _first(engine, state)
        if rev > after and rev not in without:
            found[rev], times[rev] = state.values[VALUE], at
    given, room = list[Published](), MOST_BYTES
    for rev in sorted(found)[:MOST_AT_ONCE]:
        room -= len(bytes(found[rev]))
        if room < 0 and given:
            break
        given.append(Published(rev, times[rev], msgspec.json.decode(found[rev])))
    return given


async def _first(engine: Engine, state: State) -> tuple[int, datetime]:
    """Return in which revision and when an event was published; recovery may have touched it."""
    if AT not in state.values:
        if not state.transition.origin and state.committed_at is not None:
            return state.rev, state.committed_at  # It was not touched.
        async for each in engine.history(state.id):
            if each.rev > state.get(int, AFTER) and each.committed_at is not None:
                return each.rev, each.committed_at
    return state.get(int, REV), state.get(datetime, AT)
