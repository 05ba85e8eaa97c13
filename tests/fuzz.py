"""Damaged bytes by the thousand: what the fuzzing of the codec and of the stores share."""

from datetime import UTC, datetime
from functools import cache
from random import Random
from typing import Any

from msgspec import Raw, json

from flowstate import Data, Transition
from flowstate.codec import DelayBody, encode_body, encode_context, encode_delay, encode_state
from flowstate.data import DataRef, checksum_of
from flowstate.driver import NewDelay, Writes
from flowstate.ground.frozen import FrozenDict
from flowstate.state import State, Status

__all__ = ["BODIES", "DATA", "WRITES", "hostile", "mutated"]

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DATA = Data(b"blob", FrozenDict({"n": "1"}))
CHECKSUM = checksum_of(DATA)
STATE = State(
    "order-1",
    rev=7,
    labels=FrozenDict({"kind": "order"}),
    annotations=FrozenDict({"note": "né", "flowstate.recovery.retry_after": "0.001"}),
    transition=Transition("charge", FrozenDict({"by": "me"}), "delay"),
    status=Status.PAUSED,
    committed_at=AT,
    data=FrozenDict({"blob": DataRef(2, CHECKSUM)}),
)
NEWER = (
    b'{"v":1,"id":"a","mood":[1,{"x":null}],"transition":{"to":"next","speed":9},'
    b'"data":{"blob":{"rev":1,"checksum":"abc","size":4}}}'
)
BODIES: dict[str, bytes] = {
    "state": encode_state(STATE),
    "newer": NEWER,
    "delay": encode_delay(DelayBody("next", FrozenDict({"x": "1"}), commit=False)).encode(),
    "context": encode_context(STATE, State("a"), (Transition("b"),), with_commit=True).encode(),
    "annotations": b'{"x":"1","\xc3\xa9":""}',
    "note": b'{"engine":"host-1","seconds":1.5,"error":"no"}',
}
TOKENS = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"-0.0",
    b"9" * 25,
    b'"\\ud800"',
    b'"\\u0000"',
    b"[]",
    b"{}",
    b'"',
    b"\\",
    b",",
    b":",
    b"{",
    b"}",
    b"[[",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b'"v":2,',
    b'"v":1,',
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    0.5,
    1e308,
    -0.0,
    "",
    "\0",
    "x" * 600,
    "1",
    "active",
    "é",
    "\U0001f600",
    "2030-01-01T00:00:00Z",
    "2030-01-01T00:00:00",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    [],
    [1],
    [[]],
    {},
    {"k": 1},
    {"": ""},
)


def mutated(body: bytes, rng: Random) -> bytes:
    """Return a damaged copy: of other bytes, or of other JSON values."""
    if rng.random() < 0.5:
        return json.encode(_changed(json.decode(body), rng))
    damaged = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(damaged) + 1)
        end = min(len(damaged), place + rng.choice((0, 0, 1, 1, 3, 20)))
        other = rng.randrange(len(body))
        piece = rng.choice(
            (b"", bytes([rng.randrange(256)]), rng.choice(TOKENS), body[other : other + 20])
        )
        damaged[place:end] = piece
    return bytes(damaged)


def _changed(value: Any, rng: Random) -> Any:
    """Change something somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(10):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(("", "v", "new", "\0", "\ud7ff", "id"))] = changed.pop(key)
            case 2:
                changed[rng.choice(("v", "new", "labels"))] = rng.choice(VALUES)
            case _:
                changed[key] = _changed(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


@cache
def hostile() -> dict[str, bytes]:
    """Return what is large or deep enough to hurt a careless reader."""
    return {
        "deep lists": b"[" * 100_000,
        "deep unknown": b'{"v":1,"id":"a","to":"b","current":{},"new":' + b"[" * 100_000,
        "deep objects": b'{"v":1,"id":"a","to":"b","data":' + b'{"a":' * 100_000,
        "closed depth": b'{"v":1,"id":"a","to":"b","new":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "long text": b'{"v":1,"id":"' + b"x" * 10_000_000,
        "long key": b'{"v":1,"' + b"x" * 10_000_000 + b'":1}',
        "long number": b'{"v":1,"id":"a","to":"b","rev":' + b"9" * 4_301 + b"}",
        "long float": b'{"v":1,"id":"a","to":"b","rev":0.' + b"9" * 100_000 + b"}",
        "long exponent": b'{"v":1,"id":"a","to":"b","rev":1e' + b"9" * 5_000 + b"}",
        "long unknown number": b'{"v":1,"id":1,"to":"b","new":' + b"9" * 100_000 + b"}",
        "many keys": b'{"v":1,' + b'"a":1,' * 500_000 + b'"id":1}',
        "escapes": b'{"v":1,"id":"' + b"\\ud83d" * 200_000 + b'"}',
    }


def _writes() -> tuple[Writes, ...]:
    """Return commits that leave something of every kind in a store."""
    data = Data(DATA.blob, DATA.annotations, 1, CHECKSUM)
    ref = FrozenDict({"blob": DataRef(1, CHECKSUM)})
    states = []
    for number in range(6):
        labels = FrozenDict({"kind": "x", "number": str(number % 2)})
        moved = Transition("next", FrozenDict({"n": "1"}))
        notes = FrozenDict({"flowstate.recovery.retry_after": "0.001"})
        states.append(State(f"s{number}", 0, labels, notes, moved, data=ref))
    notes = FrozenDict({"k": "v"})
    body = encode_delay(DelayBody("next", notes))
    due = AT.replace(year=2000)
    delays = [
        NewDelay(state, "next", notes, due, None, True, body, 0, (CHECKSUM,))
        for state in states[:3]
    ]
    alone = State("s5", 6, annotations=FrozenDict({"own": "copy"}))
    own = encode_delay(DelayBody("next", state=Raw(encode_body(alone).encode())))
    later = AT.replace(year=2001)
    apart = NewDelay(alone, "next", FrozenDict(), later, None, True, own)
    return (
        Writes("data", data=(data,)),
        *(
            Writes(
                f"t{number}",
                (state,),
                (encode_body(state),),
                delays=tuple(delays[number : number + 1]),
            )
            for number, state in enumerate(states)
        ),
        Writes("alone", checks=(("s5", 6),), delays=(apart,)),
    )


WRITES = _writes()
