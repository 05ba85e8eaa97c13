"""Processes that write and processes that watch: nothing is missed, reordered or doubled."""

import pytest

from tests.history import check_history
from tests.redis_servers import RedisLike

pytestmark = pytest.mark.slow

COMMITS = 20_000


async def test_every_watcher_sees_the_log(redis_server: RedisLike, redis_namespace: str) -> None:
    assert await check_history(redis_server.url(), redis_namespace, COMMITS) == COMMITS * 9 // 5
