"""The Redis driver, each place a namespace."""

import asyncio
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from msgspec import msgpack
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Counter
from benchmarks.stores import filling
from benchmarks.stores.store import Address, Store, StoreName, counting_calls
from flowstate import Driver

__all__ = ["RedisStore"]

CHUNK = 1_000
LOOK_EVERY = 0.05
FIRST = datetime.min.replace(tzinfo=UTC)


class RedisStore(Store):
    """One namespace for each place."""

    name: StoreName = "redis"
    is_shared = True

    def __init__(self, setting: Setting) -> None:
        self.small_log = setting.sizes.small_log
        self.log = setting.sizes.redis_log
        self.commits = setting.sizes.server_commits
        self.operations = setting.sizes.operations
        self._setting = setting

    def address(self, place: str) -> Address:
        return Address("redis", self._setting.redis_url(), self._setting.redis_namespace(place))

    def driver(self, place: str) -> Driver:
        return self.address(place).driver()

    async def fill(self, place: str, states: int) -> None:
        await asyncio.to_thread(_fill, self.address(place), states)

    def size(self, place: str) -> int:
        address = self.address(place)
        with Redis.from_url(address.where) as client:
            keys = client.scan_iter(f"{{{address.name}}}:*", count=CHUNK)
            sizes: Any = [client.memory_usage(key, samples=0) for key in keys]
        return sum(filter(None, sizes))

    def counting(self) -> AbstractContextManager[Counter]:
        return counting_calls(AsyncRedis, "execute_command")


def _fill(address: Address, states: int) -> None:
    with Redis.from_url(address.where) as client:
        script = client.register_script(_script())
        description = msgpack.encode(_description())
        for first in range(0, states, CHUNK):
            arguments = (first, min(CHUNK, states - first), description)
            script(keys=[f"{{{address.name}}}"], args=arguments)
        _wait_for_quiet(client)


def _script() -> bytes:
    # Only filling needs it, which an older checkout may do without.
    from flowstate.drivers.redis.scripts import PARTS  # noqa: PLC0415

    driver = resources.files("flowstate.drivers.redis").joinpath("lua")
    parts = [driver.joinpath(f"{name}.lua").read_bytes() for name in ("common", *PARTS["commit"])]
    return b"\n".join([*parts, Path(__file__).with_name("fill.lua").read_bytes()])


def _description() -> tuple[object, ...]:
    kinds = [
        (
            kind.status.value,
            kind.body,
            False if kind.stalls_after is None else str(kind.stalls_after),
            kind.is_delayed,
            kind.flow,
        )
        for kind in filling.KINDS
    ]
    due = (filling.FIRST_DUE - FIRST) // timedelta(seconds=1)
    marks = (filling.NUMBER_MARK, filling.GROUP_MARK)
    return filling.GROUPS, due, filling.delay_body(), *marks, kinds, FINISH


def _wait_for_quiet(client: "Redis") -> None:
    """Wait until the server has rewritten its log, which filling makes it do."""
    while True:
        found: Any = client.info("persistence")
        if not found.get("aof_rewrite_in_progress") and not found.get("aof_rewrite_scheduled"):
            return
        time.sleep(LOOK_EVERY)
