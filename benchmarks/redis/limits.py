"""The bare loops: one script that compares and sets a revision, one by one and pipelined."""

from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from redis.asyncio import Redis

__all__ = ["Bare"]

PIPELINE = 100
BODY = '{"v":1,"id":"hot-0","transition":{"to":"first"}}'
EACH = "abcdefabcdefabcdefabcdefabcdefab-{}"  # As long as the token of a commit.

# What the driver writes for a state without labels: log, history by status, latest and its index.
SCRIPT = """
local prefix, id, expected = KEYS[1], ARGV[1], ARGV[2]
local latest = redis.call('HGET', prefix .. ':latest', id) or '0 active 0'
if string.match(latest, '^%d+') ~= expected then
    return redis.error_reply('refused')
end
local rev = redis.call('HINCRBY', prefix .. ':meta', 'head', 1)
local entry = rev .. '-0'
redis.call('XADD', prefix .. ':log', entry, 'i', id, 'p', expected, 's', 'active',
    'c', redis.call('TIME')[1], 'u', '', 't', ARGV[3], 'l', '', 'r', '', 'b', ARGV[4])
redis.call('XADD', prefix .. ':status:active', entry, '', '')
redis.call('HSET', prefix .. ':latest', id, rev .. ' active 0')
redis.call('ZADD', prefix .. ':latest_status:active', rev, id)
return rev
"""


class Bare:
    """Loops over one connection that stays open."""

    def __init__(self, client: Redis, digest: str) -> None:
        self._client = client
        self._digest = digest
        self._revs: dict[str, int] = {}
        self._count = 0

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> "Bare":
        """Connect, and give the script to the server."""
        client = Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        bare = cls(client, str(await client.script_load(SCRIPT)))
        await bare.one(10)
        await bare.many(10 * PIPELINE)
        return bare

    def _arguments(self, id: str) -> tuple[Any, ...]:
        self._count += 1
        expected = self._revs.get(id, 0)
        return self._digest, 1, "{bare}", id, expected, EACH.format(self._count), BODY

    async def one(self, count: int) -> float:
        """Commit one after the other; seconds per commit."""
        start = perf_counter()
        for _ in range(count):
            self._revs["one"] = await self._client.evalsha(*self._arguments("one"))
        return (perf_counter() - start) / count

    async def many(self, count: int) -> float:
        """Commit 100 in each pipeline, each of another state; seconds per commit."""
        start = perf_counter()
        ids = [f"many-{number}" for number in range(PIPELINE)]
        for _ in range(count // PIPELINE):
            pipeline = self._client.pipeline(transaction=False)
            for id in ids:
                pipeline.evalsha(*self._arguments(id))
            self._revs |= zip(ids, await pipeline.execute(), strict=True)
        return (perf_counter() - start) / (count // PIPELINE * PIPELINE)
