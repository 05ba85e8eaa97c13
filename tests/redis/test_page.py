"""docs/redis.md: its commands find something, and it knows every kind of key and every field."""

import asyncio
import re
import secrets
import shlex
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis

from flowstate import (
    Commit,
    Data,
    Delay,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreData,
    StoreReadOnlyError,
    Transit,
)
from flowstate.driver import Claim, Drop, DueQuery, Heartbeat, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases.support import timer
from tests.redis_servers import RedisLike
from tests.support import commit_one

pytestmark = pytest.mark.repository

FILE = Path(__file__).parents[2] / "docs" / "redis.md"
PAGE = FILE.read_text() if FILE.exists() else ""
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r'^redis-cli -u "\$REDIS_URL" (.*)$', SHELL, re.MULTILINE)
RIGHTS = re.findall(r'^redis-cli -u "\$ADMIN_URL" ACL SETUSER worker (.*)$', SHELL, re.MULTILINE)
ROWS = re.findall(r"^\| `([\w:]+)` \| (hash|stream|sorted set) \| ([^|]*) \|$", PAGE, re.MULTILINE)
NAMES = {
    "data": "CHECKSUM",
    "delays_of": "ID",
    "due": "KIND:FLOW",
    "flows": "KIND",
    "label": "STATUS:LABEL",
    "latest_label": "STATUS:LABEL",
    "latest_status": "STATUS",
    "status": "STATUS",
    "timers_of": "ID",
}
FIELDS = {kind: re.findall(r"`(\w+)`:", holds) for kind, _, holds in ROWS}


@pytest.fixture
async def client(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator["Redis"]:
    """To a store with something under every kind of key."""
    flows = FlowRegistry()
    flows.declare("charge")
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)
    async with Engine(driver, flows) as engine:
        order, later, paused = (
            StateContext(State(id, labels={"kind": "order"})) for id in ("order-1", "2", "3")
        )
        order.data["invoice"], paused.data["draft"] = Data(b"blob"), Data(b"not referred to")
        await engine.do(Commit(StoreData(order, "invoice"), Transit(order, "charge")))
        await engine.do(Commit(Transit(paused, "charge"), Pause(paused)))
        await engine.do(StoreData(paused, "draft"))
        await engine.do(Commit(Delay(later, "charge", after=timedelta(hours=1))))
        timers = (timer("reminder", timedelta(hours=1), to="charge"),)
        await commit_one(driver, Writes("timer", (paused.committed,), timers=timers))
        await driver.beat([Heartbeat(order.current.id, order.committed.rev, 60.0, "working")])
    options = {"decode_responses": True, "encoding_errors": "surrogateescape"}  # Some is binary.
    with Redis.from_url(redis_server.url(), **options) as client:
        yield client


def kind_of(key: str) -> str:
    """Return how the page names the keys of a kind: what differs is in capitals."""
    kind, colon, rest = key.partition(":")
    return f"{kind}:{NAMES[kind]}" if colon and rest else kind


def found_kinds(client: "Redis", namespace: str) -> dict[str, list[str]]:
    keys: Any = client.scan_iter(f"{{{namespace}}}:*")
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(kind_of(key.removeprefix(f"{{{namespace}}}:")), []).append(key)
    return found


async def test_the_page_knows_every_kind_of_key(client: "Redis", redis_namespace: str) -> None:
    names = {"zset": "sorted set"}
    described = {kind: name for kind, name, _ in ROWS}
    found: dict[str, set[str]] = {}
    for kind, keys in found_kinds(client, redis_namespace).items():
        for key in keys:
            name = str(client.type(key))
            found.setdefault(kind, set()).add(names.get(name, name))
    assert found == {kind: {name} for kind, name in described.items()}
    assert len(described) == len(ROWS)


@pytest.mark.parametrize("kind", ["meta", "log", "data:CHECKSUM"])
async def test_the_page_knows_every_field(client: "Redis", redis_namespace: str, kind: str) -> None:
    described = set(FIELDS[kind])
    assert described
    for key in found_kinds(client, redis_namespace)[kind]:
        if kind == "log":
            entries: Any = client.xrange(key)
            assert [set(entry) for _, entry in entries] == [described] * 4
        else:
            fields: Any = client.hkeys(key)
            assert set(fields) == described


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 10


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_finds_something(
    client: "Redis", redis_namespace: str, command: str
) -> None:
    words = shlex.split(command.replace("{flowstate}", f"{{{redis_namespace}}}"))
    found: Any = client.execute_command(*words)  # type: ignore[no-untyped-call]
    assert found


async def test_the_permissions_are_enough(redis_server: RedisLike, redis_namespace: str) -> None:
    """The engine does all that reads, and all that writes."""
    (rights,) = RIGHTS
    user, password = f"test-{secrets.token_hex(8)}", secrets.token_hex()
    rights = rights.replace("password", password).replace("{flowstate}", f"{{{redis_namespace}}}")
    flows = FlowRegistry()
    flows.declare("charge")
    with Redis.from_url(redis_server.url()) as admin:
        ask: Any = admin.execute_command
        ask("ACL", "SETUSER", user, *shlex.split(rights))
        try:
            parts = urlsplit(redis_server.url())
            location = f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"
            url = parts._replace(netloc=location).geturl()
            async with Engine(RedisDriver(url, namespace=redis_namespace), flows) as engine:
                await use_as_worker(engine)
            with pytest.raises(StoreReadOnlyError):
                await RedisDriver(url, namespace=f"{redis_namespace}-2").__aenter__()
        finally:
            ask("ACL", "DELUSER", user)


async def use_as_worker(engine: Engine) -> None:
    order = StateContext(State("order-1", labels={"kind": "order"}))
    order.data["invoice"] = Data(b"blob")
    await engine.do(Commit(StoreData(order, "invoice"), Transit(order, "charge")))
    await engine.do(Commit(Pause(order), Delay(order, "charge", after=timedelta(0))))
    assert (await engine.get_data(order, "invoice")).blob == b"blob"
    (delayed,) = (await engine.get_delayed_states()).delayed
    claim, drop = Claim(delayed.id, "holder", 60.0), Drop(delayed.id, "holder")
    assert await engine.driver.commit([Writes("1", claims=(claim,), drops=(drop,))]) == [()]
    assert await engine.driver.beat([Heartbeat("order-1", order.committed.rev, 0.0, "")]) == [True]
    assert all(await engine.driver.get_liveness(["order-1"]))
    assert not (await engine.driver.get_due(DueQuery("stall"))).due
    async with engine.watch(labels={"kind": "order"}, since_rev=0) as states:
        assert [(await anext(states)).rev for _ in range(2)] == [1, 2]
        waiting = asyncio.ensure_future(anext(states))
        await asyncio.sleep(0.1)  # reason: it is to wait for the server
        await engine.do(Commit(Pause(order)))
        assert (await waiting).rev == 3
    assert await engine.compact(await engine.head()) == 2
