"""Workers are killed and stopped for a minute on each store: every job ends, exactly once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recovery.fire import check_under_fire
from tests.redis_servers import RedisLike
from tests.servers import Postgres

pytestmark = [
    pytest.mark.alone,
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

Record = Callable[[str, object], None]

JOBS = 2_000
SECONDS = 45.0
GRACE = 120.0  # Twenty seconds are usual; waits double with each attempt that is killed.


async def burn(url: str, schema: str, folder: Path) -> str:
    """Return what happened."""
    return await check_under_fire(url, schema, folder, jobs=JOBS, seconds=SECONDS, grace=GRACE)


async def test_sqlite_under_fire(tmp_path: Path, record_testsuite_property: Record) -> None:
    record_testsuite_property("fire_sqlite", await burn(str(tmp_path / "store.db"), "", tmp_path))


async def test_postgres_under_fire(
    postgres: Postgres, postgres_schema: str, tmp_path: Path, record_testsuite_property: Record
) -> None:
    summary = await burn(postgres.url(), postgres_schema, tmp_path)
    record_testsuite_property("fire_postgres", summary)


async def test_redis_under_fire(
    redis_server: RedisLike,
    redis_namespace: str,
    tmp_path: Path,
    record_testsuite_property: Record,
) -> None:
    summary = await burn(redis_server.url(), redis_namespace, tmp_path)
    record_testsuite_property("fire_redis", summary)
