"""What a server's settings mean: durability, and servers that will not do."""

import time

import pytest

from flowstate import StoreReadOnlyError, StoreUnavailableError
from flowstate.driver import Durability
from flowstate.drivers.redis import RedisDriver
from flowstate.testing.faults.ports import free_port
from tests.redis.support import head_of
from tests.redis_servers import RedisServer, needs_old_server
from tests.support import commit_one, put


async def refused(url: str, match: str, *, patience: float = 1.0) -> None:
    """Check that a driver does not open, says why, and says it soon."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=match):
        await RedisDriver(url, timeout=patience).__aenter__()
    assert time.monotonic() - started < patience + 2.0


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "durability"),
    [
        ("no", "always", "none"),
        ("yes", "no", "process"),
        ("yes", "everysec", "process"),
        ("yes", "always", "power"),
    ],
)
async def test_durability(
    private_redis: RedisServer, appendonly: str, appendfsync: str, durability: Durability
) -> None:
    private_redis.ask("CONFIG", "SET", "appendonly", appendonly)
    private_redis.ask("CONFIG", "SET", "appendfsync", appendfsync)
    try:
        async with RedisDriver(private_redis.url(), require_durability=durability) as driver:
            assert driver.durability == durability
        if durability != "power":
            with pytest.raises(StoreUnavailableError, match="appendfsync"):
                await RedisDriver(private_redis.url(), require_durability="power").__aenter__()
    finally:
        private_redis.ask("CONFIG", "SET", "appendonly", "yes")
        private_redis.ask("CONFIG", "SET", "appendfsync", "always")


@needs_old_server
async def test_an_old_server_has_durability_too() -> None:
    settings = {"appendonly": "yes", "appendfsync": "always"}
    with RedisServer(settings, version="6.2") as server:
        async with RedisDriver(server.url(), require_durability="power") as driver:
            await commit_one(driver, put("1", "a"))
        server.kill()
        server.start()
        async with RedisDriver(server.url()) as driver:
            assert await head_of(driver) == 1


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_server_that_may_drop_keys_is_refused(
    private_redis: RedisServer, policy: str
) -> None:
    private_redis.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        await refused(private_redis.url(), policy)
    finally:
        private_redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
async def test_a_server_that_drops_what_expires_is_fine(
    private_redis: RedisServer, policy: str
) -> None:
    private_redis.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        async with RedisDriver(private_redis.url()):
            pass
    finally:
        private_redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_replica_is_refused(private_redis: RedisServer) -> None:
    with RedisServer({"replicaof": f"127.0.0.1 {private_redis.port}"}) as replica:
        await refused(replica.url(), "replica")


async def test_a_primary_that_becomes_a_replica_refuses_commits() -> None:
    with RedisServer() as server:
        async with RedisDriver(server.url(), timeout=1.0) as driver:
            await commit_one(driver, put("1", "a"))
            server.ask("REPLICAOF", "127.0.0.1", free_port())
            with pytest.raises(StoreReadOnlyError):
                await commit_one(driver, put("2", "b"))
            server.ask("REPLICAOF", "NO", "ONE")
            await commit_one(driver, put("2", "b"))
            assert await head_of(driver) == 2


async def test_a_wrong_password_is_explained(private_redis: RedisServer) -> None:
    started = time.monotonic()
    url = private_redis.url()
    await refused(url.replace(private_redis.password, "wrong"), "(?i)password", patience=10.0)
    await refused(url.replace(f":{private_redis.password}@", ""), "(?i)auth", patience=10.0)
    assert time.monotonic() - started < 5.0


async def test_no_server_is_explained() -> None:
    await refused(f"redis://127.0.0.1:{free_port()}/0", "(?i)connect")


async def test_a_server_without_tls_is_explained(private_redis: RedisServer) -> None:
    await refused(private_redis.url().replace("redis://", "rediss://"), "(?i)ssl|connect|closed")


async def test_a_server_that_does_not_let_everybody_ask(private_redis: RedisServer) -> None:
    """Managed servers hide their settings: what is unknown is not promised."""
    rights = ("~*", "&*", "+@all", "-config")
    private_redis.ask("ACL", "SETUSER", "app", "on", ">secret", *rights)
    url = private_redis.url().replace(f":{private_redis.password}@", "app:secret@")
    async with RedisDriver(url) as driver:
        assert driver.durability == "process"
        await commit_one(driver, put("1", "not everybody"))
