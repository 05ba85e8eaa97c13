"""Where stages find their stores."""

import contextlib
from collections.abc import Iterator

from tests.redis_servers import DURABLE, RedisServer
from tests.servers import FAST, PostgresServer
from tests.soak.histories import Server

__all__ = ["durable_server", "quick_servers"]


@contextlib.contextmanager
def quick_servers() -> Iterator[dict[str, str]]:
    """Start servers that need not survive anything; return their URLs."""
    with PostgresServer(FAST) as postgres, RedisServer() as redis:
        yield {"postgres": postgres.url(), "redis": redis.url()}


@contextlib.contextmanager
def durable_server(store: str) -> Iterator[Server | None]:
    """Start a server that loses nothing when it is killed; none for a file."""
    match store:
        case "postgres":
            with PostgresServer() as postgres:
                yield postgres
        case "redis":
            with RedisServer(DURABLE) as redis:
                yield redis
        case _:
            yield None
