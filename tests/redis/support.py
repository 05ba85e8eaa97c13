"""A look at the keys of a namespace: do all of them tell the same story?"""

from typing import Any

from msgspec import msgpack
from redis import Redis

from flowstate.codec import decode_state
from flowstate.stalling import stalls_after
from tests.redis_servers import RedisLike

__all__ = ["check_keys"]


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
    _check_stalls(client, prefix, latest)
    due: Any = client.zrange(f"{prefix}due", 0, -1)
    delays: Any = client.hkeys(f"{prefix}delays")
    assert sorted(member[18:] for member in due) == sorted(delays)


def _check_stalls(client: "Redis", prefix: str, latest: Any) -> None:
    found = {id: stalls_after(decode_state(fields[b"b"])) for id, (_, fields) in latest.items()}
    stalling = {id for id, after in found.items() if after is not None}
    assert set(_scores(client, f"{prefix}stalls")) == stalling
    beats: Any = client.hgetall(f"{prefix}beats")
    assert {id: int(value.split()[0]) for id, value in beats.items()} == {
        id: latest[id][0] for id in beats
    }


def _check_labels(client: "Redis", prefix: str, entries: Any, latest: Any) -> None:
    all_of: dict[bytes, dict[bytes, int]] = {}
    latest_of: dict[bytes, dict[bytes, int]] = {}
    for rev, fields in entries:
        for name in _labels(fields):
            all_of.setdefault(name, {})[b"%d" % rev] = rev
            if latest[fields[b"i"]][0] == rev:
                latest_of.setdefault(name, {})[fields[b"i"]] = rev
    for kind, expected in (("label:", all_of), ("latest_label:", latest_of)):
        start = f"{prefix}{kind}".encode()
        keys: Any = client.keys("*label:*")
        found = {key.removeprefix(start): key for key in keys if key.startswith(start)}
        assert {name: _scores(client, key) for name, key in found.items()} == expected


def _labels(fields: dict[bytes, bytes]) -> list[bytes]:
    if not fields[b"l"]:
        return []
    flat = [text.encode() for text in msgpack.decode(fields[b"l"])]
    return [
        b"%d:%s%s" % (len(key), key, value)
        for key, value in zip(flat[::2], flat[1::2], strict=True)
    ]


def _scores(client: "Redis", key: Any) -> dict[bytes, int]:
    pairs: Any = client.zrange(key, 0, -1, withscores=True)
    return {member: int(score) for member, score in pairs}


def _rev(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
