"""A store as the first edition left it: its keys, written one by one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from msgspec import Raw, msgpack
from redis import Redis

from flowstate import Data, State, Status, Transition
from flowstate.codec import ABSENT, DelayBody, encode_body, encode_delay, encode_state
from flowstate.data import DataRef, checksum_of
from flowstate.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import stalls_after

__all__ = ["BLOB", "CHECKSUM", "DUE", "HEAD", "STATES", "write_first_edition"]

HEAD = 120
DUE = datetime(2100, 1, 1, tzinfo=UTC)
BLOB = Data(b"blob")
CHECKSUM = checksum_of(BLOB)
EPOCH, FIRST = datetime(1970, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
COMMITTED = datetime(2025, 1, 1, tzinfo=UTC)


def _state(rev: int) -> State:
    labels = FrozenDict({"queue": "mäil", "third": f"{rev % 3}"})
    return State(
        f"state-{(rev - 1) % 60}",
        max(rev - 60, 0),
        labels=labels if rev % 5 else EMPTY,
        status=(Status.ACTIVE, Status.ACTIVE, Status.PAUSED, Status.ENDED)[rev % 4],
        transition=Transition(f"flow-{rev % 2}"),
    )


STATES = [_state(rev) for rev in range(1, HEAD + 1)]
"""Every revision: 60 states with two each. ``rev`` is the one before."""


def write_first_edition(client: "Redis", namespace: str) -> None:
    """Write the store. A third of the active states is delayed."""
    key = f"{{{namespace}}}:".__add__
    meta: dict[Any, Any] = {"version": 1, "store_id": "redis-first", "head": HEAD, "floor": 1}
    client.hset(key("meta"), mapping={**meta, "last": (COMMITTED - EPOCH) // MICROSECOND})
    for rev, state in enumerate(STATES, 1):
        _write_revision(client, key, rev, state)
    data: dict[Any, Any] = {"blob": BLOB.blob, "annotations": "{}", "stored_at": 1, "references": 0}
    client.hset(key(f"data:{CHECKSUM}"), mapping=data)
    client.zadd(key("orphans"), {CHECKSUM: 1})
    client.hset(key("beats"), "state-0", f"{HEAD - 59} 1735689600000000 alive")
    client.xadd(key("alarm"), {"": ""})


def _write_revision(client: "Redis", key: Any, rev: int, state: State) -> None:
    labels = list(chain.from_iterable(state.labels.items()))
    is_latest = rev > HEAD - 60
    until = DUE + timedelta(seconds=rev) if is_latest and rev % 12 in (0, 1) else None
    entry: dict[Any, Any] = {
        "i": state.id,
        "p": state.rev,
        "s": state.status.value,
        "c": (COMMITTED - EPOCH) // MICROSECOND,
        "u": _digits(until) if until else "",
        "t": f"token-{rev}",
        "l": msgpack.encode(labels) if labels else "",
        "r": "",
        "b": encode_body(state),
    }
    client.xadd(key("log"), entry, id=f"{rev}-0")
    client.xadd(key(f"status:{state.status.value}"), {"": ""}, id=f"{rev}-0")
    for name in _label_names(state):
        client.zadd(key(f"label:{name}"), {str(rev): rev})
    if is_latest:
        _write_latest(client, key, rev, state, until)


def _label_names(state: State) -> Iterator[str]:
    for name, value in state.labels.items():
        yield f"{len(name.encode())}:{name}{value}"


def _write_latest(
    client: "Redis", key: Any, rev: int, state: State, until: datetime | None
) -> None:
    after = stalls_after(state)
    micros = "" if after is None else f" {after // MICROSECOND}"
    labelled = 1 if state.labels else 0
    client.hset(key("latest"), state.id, f"{rev} {state.status.value} {labelled}{micros}")
    client.zadd(key(f"latest_status:{state.status.value}"), {state.id: rev})
    for name in _label_names(state):
        client.zadd(key(f"latest_label:{name}"), {state.id: rev})
    if after is not None:
        stalls_at = (until or COMMITTED) + after
        client.zadd(key("stalls"), {state.id: (stalls_at - EPOCH) // MICROSECOND})
    if until is not None:
        _write_delay(client, key, rev, state, until)


def _write_delay(client: "Redis", key: Any, rev: int, state: State, due: datetime) -> None:
    id, stored = f"token-{rev}.0", ABSENT
    if rev % 12 == 0:  # It refers to data that no revision refers to.
        draft = State(state.id, rev, data=FrozenDict(blob=DataRef(1, CHECKSUM)))
        body: Any = encode_state(draft)
        stored = Raw(body)
    delay: Any = encode_delay(DelayBody("later", EMPTY, True, stored))
    text = delay.decode() if isinstance(delay, bytes) else delay
    client.hset(key("delays"), id, msgpack.encode([_digits(due), state.id, rev, text]))
    client.hset(key("delays_of"), state.id, msgpack.encode([id]))
    client.zadd(key("due"), {f"{_digits(due)}{id}": 0})


def _digits(time: datetime) -> str:
    return f"{(time - FIRST) // MICROSECOND:018}"
