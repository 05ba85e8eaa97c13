"""States that come and go, under a retention: what a store takes does not grow with them."""

import contextlib
import gc
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from flowstate import (
    Commit,
    Driver,
    End,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.recovery import Retention

__all__ = ["come_and_go", "measure_of"]

GENERATION = 5_000
BATCH = 100
SETTLING = 5  # Generations, after which what a store keeps for itself has its size.
MOST_GROWTH = 1.3
NOTHING = timedelta(0)


async def come_and_go(driver: Driver, states: int, seed: int, measure: Callable[[], int]) -> None:
    """Let so many states begin and end on an empty store, some with ids of before.

    Raises:
        AssertionError: one was not forgotten, or the store has grown.
    """
    rng = random.Random(seed)
    sizes = []
    async with Engine(driver, FlowRegistry()) as engine:
        retention = Retention(engine, NOTHING, history=NOTHING)
        for start in range(0, states, GENERATION):
            await _live(engine, start, min(GENERATION, states - start), rng)
            await retention.run_once()
            sizes.append(measure())
        await retention.run_once()  # A clock may give the same time to the last ones and to now.
        left = await engine.count()
    assert left == 0, f"{left} states were not forgotten"
    if len(sizes) > SETTLING:
        before, after = sizes[SETTLING], sizes[-1]
        assert after <= MOST_GROWTH * before, f"the store has grown from {before} to {after}"


async def _live(engine: Engine, start: int, count: int, rng: random.Random) -> None:
    for first in range(start, start + count, BATCH):
        lowest = rng.choice([first, first, first, 0])  # Some ids are used again.
        ids = [f"state {lowest + number}" for number in range(BATCH)]
        contexts = [StateContext(State(id, labels={"order": id})) for id in ids]
        with contextlib.suppress(RevisionMismatchError):  # They have not been forgotten yet.
            await engine.do(Commit(*map(End, contexts)))


def measure_of(store: str, place: str, name: str) -> Callable[[], int]:
    """Return what measures a store: bytes, or blocks of memory of this process."""
    match store:
        case "postgres":
            return lambda: _postgres_bytes(place, name)
        case "redis":
            return lambda: _redis_bytes(place, name)
        case "sqlite":
            return lambda: (Path(place) / f"{name}.db").stat().st_size
        case _:
            return _blocks


def _postgres_bytes(url: str, schema: str) -> int:
    """Return what the tables and their indexes take, once a vacuum has been there."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]
        ).fetchall()
        for (table,) in tables:
            connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(schema, table)))
        query = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relnamespace = "
        row = connection.execute(f"{query} %s::regnamespace AND relkind = 'r'", [schema]).fetchone()
    assert row is not None
    return int(row[0])


def _redis_bytes(url: str, namespace: str) -> int:
    with redis.Redis.from_url(url) as client:
        keys = client.scan_iter(match=f"*{namespace}*", count=1_000)
        return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
