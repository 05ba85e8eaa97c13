"""Processes that write and processes that watch: nothing is missed, reordered or doubled."""

import pytest

from tests.history import check_history
from tests.servers import Postgres

pytestmark = pytest.mark.slow

COMMITS = 20_000


async def test_every_watcher_sees_the_log(postgres: Postgres, postgres_schema: str) -> None:
    assert await check_history(postgres.url(), postgres_schema, COMMITS) == COMMITS * 9 // 5
