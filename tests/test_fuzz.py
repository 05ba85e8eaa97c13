"""Damaged bytes, by the thousand: only the declared errors, in bounded time and memory."""

import contextlib
import itertools
import resource
import sqlite3
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from msgspec import msgpack
from psycopg.sql import SQL, Identifier
from redis import Redis

from flowstate import CodecError, DriverError, FlowstateError, State, Status
from flowstate.codec import (
    decode_annotations,
    decode_context,
    decode_delay,
    decode_state,
    encode_body,
    encode_context,
    encode_delay,
    encode_state,
)
from flowstate.driver import Claim, Driver, Drop, DueQuery, Heartbeat, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.executions.execution import read_note
from flowstate.ground.frozen import FrozenDict
from flowstate.recovery import attempt, max_attempts
from flowstate.recovery_rules import retry_after, stalls_after
from tests.fuzz import AT, BODIES, CHECKSUM, WRITES, hostile, mutated
from tests.redis_servers import RedisLike
from tests.servers import Postgres

SEED = 20_260_101
MUTATIONS = 20_000
OF_A_STORE = 250
SECONDS = 2.0
SECONDS_OF_STORES = 20.0  # Beyond what they wait for each other, and less than a store that spins.
MEGABYTES = 300


def use(name: str, body: bytes) -> None:
    """Decode bytes as everything that they could be, and use what comes of it."""
    text = body.decode(errors="replace")
    with contextlib.suppress(CodecError):
        state = decode_state(body)
        assert decode_state(encode_state(state)) == state
        assert decode_state(body, 5, AT, None).rev == 5
        hash(state)
        assert min(attempt(state), max_attempts(state)) >= 0
        assert retry_after(state) > timedelta(0)
        assert stalls_after(state) != timedelta(0)
    with contextlib.suppress(CodecError):
        delay = decode_delay(body)
        assert decode_delay(encode_delay(delay)) == delay
    with contextlib.suppress(CodecError):
        annotations = decode_annotations(body)
        assert all(type(part) is str for pair in annotations.items() for part in pair)
    with contextlib.suppress(CodecError):
        current, committed, steps, taken, with_commit = decode_context(text)
        again = encode_context(current, committed, steps, taken, with_commit=with_commit)
        assert decode_context(again) == (current, committed, steps, taken, with_commit)
    note = read_note(text)
    assert {type(part) for part in (note.engine, note.error)} == {str}


def test_mutated_bytes_raise_only_codec_errors() -> None:
    names = itertools.cycle(BODIES)
    for number in range(MUTATIONS):
        name = next(names)
        body = mutated(BODIES[name], Random(SEED + number))
        try:
            use(name, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, it should not have come
            pytest.fail(f"mutation {number} of {name}, {body!r}: {error!r}")


@pytest.mark.parametrize("name", hostile())
def test_hostile_bytes_cost_little(name: str) -> None:
    body = hostile()[name]
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    use(name, body)

    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


# Stores

Call = Callable[[Driver], Awaitable[object]]
BOTH = (FrozenDict({"kind": "x", "number": "1"}),)
CHANGED = State("s2", 3, labels=FrozenDict({"k": "v"}))
MORE = Writes("more", (CHANGED,), (encode_body(CHANGED),))
CALLS: tuple[Call, ...] = (
    lambda driver: driver.get_state("s1"),
    lambda driver: driver.get_state("s1", 2),
    lambda driver: driver.get_states(StateQuery(limit=1_000)),
    lambda driver: driver.get_states(StateQuery(BOTH, latest_only=True)),
    lambda driver: driver.get_states(StateQuery(status=Status.ACTIVE, since_latest=True)),
    lambda driver: driver.get_states(StateQuery(since_time=AT, committed_before=AT)),
    lambda driver: driver.get_data(CHECKSUM),
    lambda driver: driver.get_due(DueQuery("delay", everything=True)),
    lambda driver: driver.get_due(DueQuery("delay", flows=("next", "x"), limit=2, others=True)),
    lambda driver: driver.get_liveness(["s1", "s2", "nothing"]),
    lambda driver: driver.get_due(DueQuery("stall", everything=True)),
    lambda driver: driver.get_due(DueQuery("stall", flows=("next",), limit=2, others=True)),
    lambda driver: driver.beat([Heartbeat("s1", 2, 0.0, "x")]),
    lambda driver: driver.commit([Writes("claim", claims=(Claim("t0.0", "me", 0.0),))]),
    lambda driver: driver.commit([WRITES[1]]),
    lambda driver: driver.commit([MORE]),
    lambda driver: driver.commit([Writes("drop", drops=(Drop("alone.0", "me"),))]),
    lambda driver: driver.compact(4),
)


async def look(driver: Driver) -> int:
    """Do everything with a damaged store; return how many errors came."""
    errors = 0
    for number, call in enumerate(CALLS):
        started, used = time.monotonic(), time.process_time()
        found: Any = None
        try:
            found = await call(driver)
        except (CodecError, DriverError):
            errors += 1
        for verdict in found if isinstance(found, tuple | list) else ():
            if isinstance(verdict, Exception):
                assert isinstance(verdict, FlowstateError)
        errors += len(getattr(found, "damaged", ()))
        assert time.process_time() - used < SECONDS, f"call {number}"
        assert time.monotonic() - started < SECONDS_OF_STORES, f"call {number}"
    return errors


async def fill(driver: Driver) -> None:
    async with driver:
        for writes in WRITES:
            await driver.commit([writes])
        await driver.beat([Heartbeat("s3", 4, 60.0, "note")])


async def each_damage(
    driver: Driver, damage: Callable[[Random], str], restore: Callable[[], None]
) -> None:
    """Damage a store again and again, and look at it each time."""
    errors, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(OF_A_STORE):
        what = damage(Random(SEED + number))
        try:
            async with driver:
                errors += await look(driver)
        except (CodecError, DriverError):
            errors += 1
        except Exception as error:
            raise AssertionError(f"damage {number}: {what}: {error!r}") from error
        restore()
    assert errors > OF_A_STORE / 4  # Else the damages do none.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


def odd_bytes(rng: Random) -> bytes:
    if rng.random() < 0.01:
        return rng.choice(list(hostile().values()))[:1_000_000]
    return mutated(rng.choice(list(BODIES.values())), rng)


NUMBERS = (None, -1, 0, 0.5, "x", "", "99", b"\0", 2**31, 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
COLUMNS = {
    "log": ("id", "previous", "status", "committed_at", "delayed_until", "token", "body", "body"),
    "latest": ("rev", "status", "labels", "due", "beat_at", "note", "flow"),
    "label": ("key", "value"),
    "latest_label": ("key", "value", "status"),
    "data": ("stored_at", "annotations", "annotations", "blob"),
    "delay": ("state_id", "rev", "due", "body", "body", "body", "flow", "holder"),
    "data_reference": ("checksum",),
    "delay_reference": ("delay", "checksum"),
    "meta": ("value",),
}


WHOLE = {"data", "delay_reference", "meta"}


def some_of(table: str, rng: Random) -> str:
    """Return which rows of a table are damaged."""
    return "true" if table in WHOLE else f"abs(rev - {rng.randrange(9)}) > 1"


async def test_sqlite_rows(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await fill(SQLiteDriver(path, synchronous="NORMAL"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = ON")
        other.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table'"
        )
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()

    def damage(rng: Random) -> str:
        table = rng.choice(list(COLUMNS))
        column = rng.choice(COLUMNS[table])
        value: Any = odd_bytes(rng) if rng.random() < 0.7 else rng.choice(NUMBERS)
        if isinstance(value, bytes) and rng.random() < 0.6:
            value = value.decode(errors="replace")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {some_of(table, rng)}", (value,)
            )
        return f"{table}.{column} = {value!r:.300}"

    def restore() -> None:
        for each in tmp_path.iterdir():
            if each.name.startswith("store.db-"):
                each.unlink()
        path.write_bytes(whole)

    await each_damage(SQLiteDriver(path, synchronous="NORMAL"), damage, restore)


TIMES = ("-infinity", "infinity", "0044-03-15 BC", "294276-01-01", "0001-01-01", "2030-01-01", None)
INTEGERS = (None, -1, 0, 2**31, 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
TEXTS = (None, "", "x", "\U0001f600", "active", "{}", "s2", "x" * 10_000)
KEYS = {
    "label": {"key", "value"},
    "latest_label": {"key", "value", "status"},
}
TYPED: dict[str, dict[str, tuple[Any, ...]]] = {
    "log": {
        "id": TEXTS[1:],
        "previous": INTEGERS,
        "status": TEXTS,
        "committed_at": TIMES,
        "delayed_until": TIMES,
        "token": TEXTS,
        "body": (),
    },
    "latest": {
        "rev": INTEGERS,
        "status": TEXTS,
        "stalls_at": TIMES,
        "stalls_after": INTEGERS,
        "beat_at": TIMES,
        "note": TEXTS,
        "labelled": (True, False, None),
        "delayed": (True, False, None),
        "flow": TEXTS,
    },
    "label": {"key": TEXTS[1:], "value": TEXTS[1:]},
    "latest_label": {"key": TEXTS[1:], "value": TEXTS[1:], "status": TEXTS[1:]},
    "data_reference": {"checksum": TEXTS[1:]},
    "meta": {"store_id": TEXTS, "floor": INTEGERS, "version": INTEGERS},
    "data": {"stored_at": INTEGERS, "annotations": (), "blob": (None, b"", b"\0")},
    "delay": {
        "state_id": TEXTS,
        "rev": INTEGERS,
        "due": TIMES,
        "body": (),
        "flow": TEXTS,
        "holder": TEXTS,
        "written": INTEGERS,
    },
}


async def test_postgres_rows(postgres: Postgres, postgres_schema: str) -> None:
    driver = PostgresDriver(postgres.url(), schema=postgres_schema, pool_size=2)
    await fill(driver)
    schema = Identifier(postgres_schema)
    with psycopg.connect(postgres.url(), autocommit=True) as other:
        other.execute("SET client_min_messages = error")
        for table in TYPED:
            copy = f"CREATE TABLE {{0}}.c_{table} AS SELECT * FROM {{0}}.{table}"
            other.execute(SQL(copy).format(schema))
        for table, columns in TYPED.items():
            for column in columns.keys() - KEYS.get(table, {"id", "checksum"}):
                loose = f"ALTER TABLE {{}}.{table} ALTER COLUMN {column} DROP NOT NULL"
                other.execute(SQL(loose).format(schema))

        def damage(rng: Random) -> str:
            table = rng.choice(list(TYPED))
            column = rng.choice([*TYPED[table], *(["body"] * 2 if "body" in TYPED[table] else [])])
            change = f"UPDATE {{}}.{table} SET {column} = %s WHERE {some_of(table, rng)}"
            for _ in range(100):
                values = TYPED[table][column] or (odd_bytes(rng).decode(errors="replace"),)
                value = rng.choice(values)
                with contextlib.suppress(psycopg.Error):  # The server takes what has the type.
                    other.execute(SQL(change).format(schema), (value,))
                    return f"{table}.{column} = {value!r:.300}"
            return "nothing"

        def restore() -> None:
            with other.transaction():
                for table in TYPED:
                    other.execute(SQL(f"DELETE FROM {{}}.{table}").format(schema))
                    again = f"INSERT INTO {{0}}.{table} SELECT * FROM {{0}}.c_{table}"
                    other.execute(SQL(again).format(schema))

        async with driver:
            await each_damage(driver, damage, restore)


async def test_redis_values(redis_server: RedisLike, redis_namespace: str) -> None:
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)
    await fill(driver)
    prefix = f"{{{redis_namespace}}}:"
    with Redis.from_url(redis_server.url()) as client:
        keys: Any = sorted(client.scan_iter(f"{prefix}*"))
        whole: Any = {key: client.dump(key) for key in keys}

        def damage(rng: Random) -> str:
            key = rng.choice(keys)
            if rng.random() < 0.05:
                client.delete(key)
                client.set(key, odd_bytes(rng))
                return f"{key!r} is a text"
            kind: Any = client.type(key)
            return f"{key!r}: {DAMAGES[kind](client, key, rng)!r:.300}"

        def restore() -> None:
            left: Any = list(client.scan_iter(f"{prefix}*"))
            client.delete(*left)
            for key, value in whole.items():
                client.restore(key, 0, value)

        async with driver:
            await each_damage(driver, damage, restore)


def _odd_value(old: bytes, rng: Random) -> bytes:
    """Return a damaged value: other bytes, or other values where it is MessagePack."""
    try:
        values = msgpack.decode(old)
    except ValueError:
        values = None
    if not isinstance(values, list) or not values or rng.random() < 0.3:
        number = str(rng.choice(NUMBERS)).encode()
        return rng.choice((odd_bytes(rng), number, old + b" ", old[: len(old) // 2], b""))
    place = rng.randrange(len(values))
    odd: tuple[Any, ...] = (odd_bytes(rng).decode(errors="replace"), *NUMBERS[:6], [], {}, 2**62)
    return msgpack.encode([*values[:place], rng.choice(odd), *values[place + 1 :]])


def _damage_hash(client: Any, key: bytes, rng: Random) -> object:
    fields = client.hgetall(key)
    name = rng.choice(sorted(fields))
    value = _odd_value(fields[name], rng)
    client.hset(key, name, value)
    return name, value


def _damage_set(client: Any, key: bytes, rng: Random) -> object:
    member = rng.choice(client.zrange(key, 0, -1))
    score = rng.choice(("-inf", "inf", "0.5", "-1", "1e300", "3"))
    other = rng.choice((member, _odd_value(member, rng)))
    client.zrem(key, member)
    client.zadd(key, {other: score})
    return other, score


def _damage_stream(client: Any, key: bytes, rng: Random) -> object:
    entries = client.xrange(key)
    damaged = rng.randrange(len(entries))
    client.delete(key)
    what: object = None
    for number, (entry, fields) in enumerate(entries):
        if number == damaged:
            name = rng.choice(sorted(fields))
            what = fields[name] = _odd_value(fields[name], rng)
        client.xadd(key, fields, id=entry)
    return what


DAMAGES: dict[bytes, Callable[[Any, bytes, Random], object]] = {
    b"hash": _damage_hash,
    b"zset": _damage_set,
    b"stream": _damage_stream,
}
