"""What a server says of itself, and what a commit survives there."""

import contextlib
import re
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from flowstate.driver import Durability
from flowstate.drivers.redis.options import DURABILITIES, Client, Options
from flowstate.errors import StoreUnavailableError

__all__ = ["durability_of", "read_settings", "wait_limit", "with_url"]

WAITAOF_SINCE = (7, 2)


def with_url(url: str, timeout: float) -> Redis:
    """Return a client that does not try again what was lost: the driver knows what may be."""
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        client_name="flowstate",
    )


def wait_limit(client: Any) -> float | None:
    """Return for how many seconds a client waits for a reply."""
    pool = getattr(client, "connection_pool", None)
    options = getattr(client if pool is None else pool, "connection_kwargs", {})
    limit = options.get("socket_timeout")
    return limit if isinstance(limit, int | float) else None


async def read_settings(client: Client, prefix: str) -> dict[str, Any]:
    """Return the settings of the server; of a cluster, of the one that has the namespace."""
    options: dict[str, Any] = {}
    if isinstance(client, RedisCluster):
        await client.initialize()
        options["target_nodes"] = client.get_node_from_key(prefix)
    found: dict[str, Any] = dict(_of_one(await client.info(**options)))
    with contextlib.suppress(RedisError):  # Managed servers do not let everyone ask.
        for name in ("appendfsync", "maxmemory-policy"):
            reply = _of_one(await client.config_get(name, **options))
            found |= {_text(key): _text(value) for key, value in reply.items()}
    return found


def _of_one(reply: dict[Any, Any]) -> dict[Any, Any]:
    """Return the only server's reply, which a cluster's client puts under its name."""
    (first, *others) = reply.values() or (None,)
    return first if isinstance(first, dict) and not others else reply


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def durability_of(settings: dict[str, Any], options: Options, client: Client) -> Durability:
    """Return what an acknowledged commit survives.

    Raises:
        StoreUnavailableError: this server will not do.
    """
    if settings.get("role") not in (None, "master"):
        raise StoreUnavailableError("this Redis server is a replica; connect to its primary")
    policy = _text(settings.get("maxmemory_policy") or settings.get("maxmemory-policy") or "")
    if policy.startswith("allkeys-"):
        raise StoreUnavailableError(
            f"this Redis server may drop keys: maxmemory-policy is {policy}, not noeviction"
        )
    durability = _durability(settings, options, client)
    if DURABILITIES.index(durability) < DURABILITIES.index(options.require_durability):
        raise StoreUnavailableError(
            f"this Redis server promises durability {durability!r}, and "
            f"{options.require_durability!r} is required; see appendonly and appendfsync"
        )
    return durability


def _durability(settings: dict[str, Any], options: Options, client: Client) -> Durability:
    fsync, has_log = settings.get("appendfsync"), int(settings.get("aof_enabled", 0))
    if options.wait_aof is not None:
        _check_wait(settings, client)
        if options.wait_aof[0]:
            if not has_log:
                raise StoreUnavailableError("wait_aof needs a server with appendonly yes")
            if fsync == "no":
                raise StoreUnavailableError("wait_aof would wait in vain: appendfsync is no")
            return "power"
    if not has_log:
        return "none"
    return "power" if fsync == "always" else "process"


def _check_wait(settings: dict[str, Any], client: Client) -> None:
    version = str(settings.get("redis_version", "0"))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < WAITAOF_SINCE:
        raise StoreUnavailableError(f"wait_aof needs Redis 7.2; this server is {version}")
    if isinstance(client, RedisCluster):
        raise StoreUnavailableError("wait_aof does not work with the client of a cluster")
