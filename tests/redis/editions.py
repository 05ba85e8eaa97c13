"""Stores as earlier editions left them: their keys, written one by one.

Each is of one version, and the next one is brought up to date from the same states.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from msgspec import Raw, msgpack

from flowstate import Data, State, Status, Transition
from flowstate.codec import ABSENT, DelayBody, encode_body, encode_delay, encode_state
from flowstate.data import DataRef, checksum_of
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import DISABLED, stalls_after

__all__ = ["BLOB", "CHECKSUM", "DUE", "EDITIONS", "HEAD", "STATES"]

HEAD = 120
DUE = datetime(2100, 1, 1, tzinfo=UTC)
BLOB = Data(b"blob")
CHECKSUM = checksum_of(BLOB)
EPOCH, FIRST = datetime(1970, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
COMMITTED = datetime(2025, 1, 1, tzinfo=UTC)


def _state(rev: int) -> State:
    """Return a revision; one whose number ends with 0 or 7 never stalls."""
    labels = FrozenDict({"queue": "mäil", "third": f"{rev % 3}"})
    return State(
        f"state-{(rev - 1) % 60}",
        max(rev - 60, 0),
        labels=labels if rev % 5 else EMPTY,
        annotations=FrozenDict({DISABLED: ""}) if rev % 10 == 7 else EMPTY,
        status=(Status.ACTIVE, Status.ACTIVE, Status.PAUSED, Status.ENDED)[rev % 4],
        transition=Transition(f"flow-{rev % 2}" if rev % 10 else ""),
    )


STATES = [_state(rev) for rev in range(1, HEAD + 1)]
"""Every revision: 60 states with two each. ``rev`` is the one before."""


Key = Callable[[str], str]


def write_first_edition(client: Any, namespace: str) -> None:
    """Write a store of version 1. A third of the active states is delayed."""
    key = _write_common(client, namespace, {"version": 1, "last": _micros(COMMITTED)}, references=0)
    client.zadd(key("orphans"), {CHECKSUM: 1})
    for rev, state in enumerate(STATES, 1):
        _write_entry(client, key, rev, state)
        for name in _label_names(state):
            client.zadd(key(f"label:{name}"), {str(rev): rev})
        if rev > HEAD - 60:
            _write_first_latest(client, key, rev, state)


def write_second_edition(client: Any, namespace: str) -> None:
    """Write a store of version 2, with the same in it."""
    key = _write_common(
        client, namespace, {"version": 2, "stamp": _micros(COMMITTED)}, references=5
    )
    for rev, state in enumerate(STATES, 1):
        _write_entry(client, key, rev, state)
        for name in _label_names(state):
            client.zadd(key(f"label:{state.status.value}:{name}"), {str(rev): rev})
        if rev > HEAD - 60:
            _write_second_latest(client, key, rev, state)


EDITIONS = {"first": write_first_edition, "second": write_second_edition}


def _write_common(client: Any, namespace: str, meta: dict[str, Any], *, references: int) -> Key:
    """Write what is the same in all editions, apart from the log; return how keys are named."""
    key = f"{{{namespace}}}:".__add__
    client.hset(key("meta"), mapping={"store_id": "redis-old", "head": HEAD, "floor": 1, **meta})
    data = {"blob": BLOB.blob, "annotations": "{}", "stored_at": 1, "references": references}
    client.hset(key(f"data:{CHECKSUM}"), mapping=data)
    client.hset(key("beats"), "state-0", f"{HEAD - 59} 1735689600000000 alive")
    client.xadd(key("alarm"), {"": ""})
    return key


def _until(rev: int) -> datetime | None:
    return DUE + timedelta(seconds=rev) if rev > HEAD - 60 and rev % 12 in (0, 1) else None


def _write_entry(client: Any, key: Key, rev: int, state: State) -> None:
    labels = list(chain.from_iterable(state.labels.items()))
    until = _until(rev)
    entry: dict[Any, Any] = {
        "i": state.id,
        "p": state.rev,
        "s": state.status.value,
        "c": _micros(COMMITTED),
        "u": _digits(until) if until else "",
        "t": f"token-{rev}",
        "l": msgpack.encode(labels) if labels else "",
        "r": "",
        "b": encode_body(state),
    }
    client.xadd(key("log"), entry, id=f"{rev}-0")
    client.xadd(key(f"status:{state.status.value}"), {"": ""}, id=f"{rev}-0")


def _label_names(state: State) -> Iterator[str]:
    for name, value in state.labels.items():
        yield f"{len(name.encode())}:{name}{value}"


def _write_first_latest(client: Any, key: Key, rev: int, state: State) -> None:
    after, until = stalls_after(state), _until(rev)
    micros = "" if after is None else f" {after // MICROSECOND}"
    labelled = 1 if state.labels else 0
    client.hset(key("latest"), state.id, f"{rev} {state.status.value} {labelled}{micros}")
    client.zadd(key(f"latest_status:{state.status.value}"), {state.id: rev})
    for name in _label_names(state):
        client.zadd(key(f"latest_label:{name}"), {state.id: rev})
    if after is not None:
        client.zadd(key("stalls"), {state.id: _micros((until or COMMITTED) + after)})
    if until is not None:
        id, delay = _delay(rev, state)
        client.hset(key("delays"), id, msgpack.encode([_digits(until), state.id, rev, delay]))
        client.hset(key("delays_of"), state.id, msgpack.encode([id]))
        client.zadd(key("due"), {f"{_digits(until)}{id}": 0})


def _write_second_latest(client: Any, key: Key, rev: int, state: State) -> None:
    after, until, flow = stalls_after(state), _until(rev), state.transition.to
    stalls = ""
    if after is not None:
        due = _digits((until or COMMITTED) + after)
        stalls = f" {after // MICROSECOND} {due} {flow}"
        client.zadd(key(f"due:stall:{flow}"), {f"{due}{state.id}": 0})
        client.zadd(key("flows:stall"), {flow: 0})
    labelled = 1 if state.labels else 0
    client.hset(key("latest"), state.id, f"{rev} {state.status.value} {labelled}{stalls}")
    client.zadd(key(f"latest_status:{state.status.value}"), {state.id: rev})
    for name in _label_names(state):
        client.zadd(key(f"latest_label:{state.status.value}:{name}"), {state.id: rev})
    if until is not None:
        id, delay = _delay(rev, state)
        sums = [CHECKSUM] if rev % 12 == 0 else []
        head = msgpack.encode([_digits(until), state.id, rev, "later", "", sums])
        client.hset(key("delay_heads"), id, head)
        client.hset(key("delay_bodies"), id, delay)
        client.zadd(key(f"delays_of:{state.id}"), {f"{_digits(until)}5:later{id}": 0})
        client.zadd(key("due:delay:later"), {f"{_digits(until)}{id}": 0})
        client.zadd(key("flows:delay"), {"later": 0})


def _delay(rev: int, state: State) -> tuple[str, str]:
    """Return the id and the body of a delay."""
    stored = ABSENT
    if rev % 12 == 0:  # It refers to data that no revision refers to.
        draft = State(state.id, rev, data=FrozenDict(blob=DataRef(1, CHECKSUM)))
        stored = Raw(encode_state(draft))
    return f"token-{rev}.0", encode_delay(DelayBody("later", EMPTY, True, stored))


def _micros(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def _digits(time: datetime) -> str:
    return f"{(time - FIRST) // MICROSECOND:018}"
