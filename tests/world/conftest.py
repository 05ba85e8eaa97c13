"""A new, empty store of each kind."""

from pathlib import Path

import pytest

from tests.redis_servers import RedisLike
from tests.servers import Postgres
from tests.world.places import Place


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def any_place(request: pytest.FixtureRequest) -> Place:
    """A new, empty store of each of the four kinds."""
    return _place(request)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest) -> Place:
    """A new, empty store of each kind that several processes share."""
    return _place(request)


def _place(request: pytest.FixtureRequest) -> Place:
    kind: str = request.param
    match kind:
        case "postgres":
            postgres: Postgres = request.getfixturevalue("postgres")
            return Place(kind, postgres.url(), request.getfixturevalue("postgres_schema"))
        case "redis":
            redis: RedisLike = request.getfixturevalue("redis_server")
            return Place(kind, redis.url(), request.getfixturevalue("redis_namespace"))
        case _:
            path: Path = request.getfixturevalue("tmp_path") / "store.db"
            return Place(kind, str(path))
