"""What a Redis driver is told."""

from typing import Any
from urllib.parse import urlsplit

import attrs
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from flowstate.clock import Clock
from flowstate.driver import Durability
from flowstate.drivers.kit.base import clock_or_system, is_clock
from flowstate.errors import InvalidInputError
from flowstate.ground.options import choice, optional, seconds

__all__ = ["Client", "DURABILITIES", "Options"]

Client = Redis | RedisCluster
DURABILITIES: tuple[Durability, ...] = ("none", "process", "power")
LONGEST_NAMESPACE = 200
LONGEST_TIMEOUT = 1_000_000.0
MOST_REPLICAS = 1_000
# Options of redis-py that take objects, but that it takes from a URL as text.
NO_TEXT = {
    "credential_provider",
    "event_dispatcher",
    "redis_connect_func",
    "retry_on_error",
    "socket_keepalive_options",
}


def _check_store(_self: object, _field: Any, value: Any) -> None:
    if isinstance(value, str):
        if not _is_url(value):
            raise InvalidInputError(
                "store", "is not the URL of a Redis server; percent-encode its user and password"
            )
    elif not isinstance(value, Client):
        raise InvalidInputError("store", "must be a URL, or an asyncio client of redis-py")


def _is_url(url: str) -> bool:
    # What is raised here repeats the URL, so it must not become the context of another error.
    try:
        pool: Any = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0))
        pool.make_connection()  # That looks at the parameters, too.
        parts = urlsplit(url)
    except (ValueError, TypeError, AttributeError, RedisError):
        return False
    if not NO_TEXT.isdisjoint(pool.connection_kwargs):
        return False
    # A "/" or "?" in a password cuts it in two, and the first half would be shown as a port.
    return parts.scheme == "unix" or "@" not in f"{parts.path}{parts.query}{parts.fragment}"


def _check_namespace(_self: object, _field: Any, value: Any) -> None:
    if not isinstance(value, str) or not value or set(value) & set("{}\0"):
        raise InvalidInputError("namespace", "must be a text without braces")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInputError("namespace", "must be valid Unicode") from None
    if length > LONGEST_NAMESPACE:
        raise InvalidInputError("namespace", f"is longer than {LONGEST_NAMESPACE} bytes")


def _check_wait(_self: object, _field: Any, value: Any) -> None:
    match value:
        case (int(local), int(replicas)) if 0 <= local <= 1 and 0 <= replicas <= MOST_REPLICAS:
            return
    raise InvalidInputError("wait_aof", "must be two numbers of servers, at most 1 and 1,000")


@attrs.define(eq=False, slots=False, kw_only=True)
class Options:
    """The options of :class:`flowstate.drivers.redis.RedisDriver`, which explains them."""

    store: str | Client = attrs.field(kw_only=False, validator=_check_store, repr=False)
    namespace: str = attrs.field(default="flowstate", validator=_check_namespace)
    require_durability: Durability = attrs.field(default="none", validator=choice(*DURABILITIES))
    wait_aof: tuple[int, int] | None = attrs.field(default=None, validator=optional(_check_wait))
    timeout: float = attrs.field(default=10.0, validator=seconds(0.001, LONGEST_TIMEOUT))
    clock: Clock = attrs.field(
        default=None, converter=clock_or_system, validator=is_clock, repr=False
    )

    @property
    def _name(self) -> str:
        return f"Redis namespace {self.namespace}"
