"""No tests of benchmarks where only the tests are, as beside a wheel; and where workloads run."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.redis_servers import RedisLike
from tests.servers import Postgres

if TYPE_CHECKING:
    from benchmarks.setting import Setting
    from benchmarks.sizes import Sizes

collect_ignore_glob = (
    [] if (Path(__file__).parent.parent.parent / "benchmarks").is_dir() else ["test_*.py"]
)


@pytest.fixture
def sizes() -> "Sizes":
    """How much of everything the setting of a test has."""
    from benchmarks.sizes import TINY  # noqa: PLC0415

    return TINY


@pytest.fixture
async def setting(
    sizes: "Sizes",
    tmp_path: Path,
    postgres: Postgres,
    redis_server: RedisLike,
    monkeypatch: pytest.MonkeyPatch,
) -> "AsyncIterator[Setting]":
    """A setting on the servers of the tests."""
    from benchmarks.setting import GIVEN_POSTGRES, GIVEN_REDIS, Setting  # noqa: PLC0415

    monkeypatch.setenv(GIVEN_POSTGRES, postgres.url())
    monkeypatch.setenv(GIVEN_REDIS, redis_server.url())
    async with AsyncExitStack() as stack:
        yield Setting(sizes, stack, tmp_path)
