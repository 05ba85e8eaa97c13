"""Short questions, and a look at the keys of a namespace: do all of them tell the same story?"""

from typing import Any

from msgspec import msgpack
from redis import Redis

from flowstate.codec import decode_state
from flowstate.driver import Driver, Liveness, StateQuery
from flowstate.recovery_rules import stalls_after
from flowstate.state import Status
from tests.redis_servers import RedisLike

__all__ = ["check_keys", "dump", "head_of", "liveness_of"]

Members = dict[bytes, int]
NO_TIME = b"0" * 18


async def head_of(driver: Driver) -> int:
    """Return the highest revision."""
    return (await driver.get_states(StateQuery(limit=1))).head


async def liveness_of(driver: Driver, id: str) -> Liveness:
    """Return what is known about a state that is there."""
    (found,) = await driver.get_liveness([id])
    assert found is not None
    return found


def dump(client: "Redis", namespace: str) -> dict[bytes, Any]:
    """Return all that is stored, as bytes."""
    keys: Any = client.scan_iter(f"{{{namespace}}}:*")
    return {key: client.dump(key) for key in keys}


def check_keys(server: RedisLike, namespace: str) -> None:
    """Compare the indexes with the log."""
    with Redis.from_url(server.url()) as client:
        _check_keys(client, f"{{{namespace}}}:")


def _check_keys(client: "Redis", prefix: str) -> None:
    log: Any = client.xrange(f"{prefix}log")
    entries = [(_rev(entry), fields) for entry, fields in log]
    latest = {fields[b"i"]: (rev, fields) for rev, fields in entries}
    stored: Any = client.hgetall(f"{prefix}latest")
    assert client.hget(f"{prefix}meta", "head") == b"%d" % entries[-1][0]
    for id in [id for id, value in stored.items() if value.startswith(b"forgotten ")]:
        assert stored.pop(id) == b"forgotten %d" % latest.pop(id)[0]
    assert {id: int(value.split()[0]) for id, value in stored.items()} == {
        id: rev for id, (rev, _) in latest.items()
    }
    for status in (b"active", b"paused", b"ended"):
        stream: Any = client.xrange(f"{prefix}status:{status.decode()}")
        assert [_rev(entry) for entry, _ in stream] == [
            rev for rev, fields in entries if fields[b"s"] == status
        ]
        assert _scores(client, f"{prefix}latest_status:{status.decode()}") == {
            id: rev for id, (rev, fields) in latest.items() if fields[b"s"] == status
        }
    _check_labels(client, prefix, entries, latest)
    _check_stalls(client, prefix, latest, stored)
    _check_delays(client, prefix)


def _check_stalls(client: "Redis", prefix: str, latest: Any, stored: Any) -> None:
    expected: dict[str, dict[bytes, set[bytes]]] = {"stall": {}, "idle": {}}
    for id, (_, fields) in latest.items():
        state = decode_state(fields[b"b"])
        if state.status is not Status.ENDED:
            *_, due, flow = stored[id].split(b" ", 5)
            assert flow.decode() == state.transition.to
            kind = "idle" if stalls_after(state) is None else "stall"
            assert bool(due) == (kind == "stall")
            expected[kind].setdefault(flow, set()).add((due or NO_TIME) + id)
    for kind, members in expected.items():
        assert _due(client, prefix, kind) == members
    beats: Any = client.hgetall(f"{prefix}beats")
    assert {id: int(value.split()[0]) for id, value in beats.items()} == {
        id: latest[id][0] for id in beats
    }


def _check_delays(client: "Redis", prefix: str) -> None:
    heads: Any = client.hgetall(f"{prefix}delay_heads")
    bodies: Any = client.hkeys(f"{prefix}delay_bodies")
    assert set(bodies) == set(heads)
    by_flow: dict[bytes, set[bytes]] = {}
    by_state: dict[str, dict[bytes, set[bytes]]] = {"delays_of:": {}, "timers_of:": {}}
    for id, head in heads.items():
        due, state, rev, flow, _, _ = msgpack.decode(head)
        by_flow.setdefault(flow.encode(), set()).add(due.encode() + id)
        place = b"%s%d:%s%s" % (due.encode(), len(flow.encode()), flow.encode(), id)
        kind = "timers_of:" if rev == -1 else "delays_of:"
        by_state[kind].setdefault(state.encode(), set()).add(place)
    assert _due(client, prefix, "delay") == by_flow
    for kind, members in by_state.items():
        assert _members(client, f"{prefix}{kind}") == members


def _due(client: "Redis", prefix: str, kind: str) -> dict[bytes, set[bytes]]:
    found = _members(client, f"{prefix}due:{kind}:")
    flows: Any = client.zrange(f"{prefix}flows:{kind}", 0, -1)
    assert set(flows) == set(found)
    return found


def _members(client: "Redis", start: str) -> dict[bytes, set[bytes]]:
    return {
        name: set(_scores(client, key)) for name, key in _keys_that_start(client, start).items()
    }


def _keys_that_start(client: "Redis", start: str) -> dict[bytes, bytes]:
    keys: Any = client.scan_iter("*")
    return {key.removeprefix(start.encode()): key for key in keys if key.startswith(start.encode())}


def _check_labels(client: "Redis", prefix: str, entries: Any, latest: Any) -> None:
    all_of: dict[bytes, Members] = {}
    latest_of: dict[bytes, Members] = {}
    for rev, fields in entries:
        for name in _labels(fields):
            all_of.setdefault(name, {})[b"%d" % rev] = rev
            if latest.get(fields[b"i"], (0,))[0] == rev:
                latest_of.setdefault(name, {})[fields[b"i"]] = rev
    for kind, expected in (("label:", all_of), ("latest_label:", latest_of)):
        found = _keys_that_start(client, f"{prefix}{kind}")
        assert {name: _scores(client, key) for name, key in found.items()} == expected


def _labels(fields: dict[bytes, bytes]) -> list[bytes]:
    if not fields[b"l"]:
        return []
    flat = [text.encode() for text in msgpack.decode(fields[b"l"])]
    return [
        b"%s:%d:%s%s" % (fields[b"s"], len(key), key, value)
        for key, value in zip(flat[::2], flat[1::2], strict=True)
    ]


def _scores(client: "Redis", key: Any) -> Members:
    pairs: Any = client.zrange(key, 0, -1, withscores=True)
    return {member: int(score) for member, score in pairs}


def _rev(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
