"""The bare loops on Redis: a script that compares and sets a revision, alone and in pipelines."""

from typing import Any

from redis.asyncio import Redis

from benchmarks.limits.bare import Bare
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample

__all__ = ["BareRedis"]

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


class BareRedis(Bare):
    """One EVALSHA on one connection; for many tasks 100 in each pipeline."""

    one_name = "EVALSHA one by one"
    many_name = "EVALSHA, pipelined"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._client: Redis | None = None
        self._digest = ""
        self._key = ""
        self._revs: dict[str, int] = {}
        self._count = 0

    async def _opened(self) -> "Redis":
        if self._client is None:
            self._client = client = Redis.from_url(self._setting.redis_url())
            self._setting.stack.push_async_callback(client.aclose)
            self._key = f"{{{self._setting.redis_namespace('bare')}}}"
            self._digest = str(await client.script_load(SCRIPT))
            await self.one(10)
            await self.many(10 * PIPELINE)
        return self._client

    def _arguments(self, id: str) -> tuple[Any, ...]:
        self._count += 1
        expected = self._revs.get(id, 0)
        return self._digest, 1, self._key, id, expected, EACH.format(self._count), BODY

    async def one(self, count: int) -> Sample:
        client = await self._opened()
        watch = Stopwatch()
        for _ in range(count):
            self._revs["one"] = await client.evalsha(*self._arguments("one"))
        return watch.sample(count, 1)

    async def many(self, count: int) -> Sample:
        client = await self._opened()
        ids = [f"many-{number}" for number in range(PIPELINE)]
        pipelines = max(1, count // PIPELINE)
        watch = Stopwatch()
        for _ in range(pipelines):
            pipeline = client.pipeline(transaction=False)
            for id in ids:
                pipeline.evalsha(*self._arguments(id))
            self._revs |= zip(ids, await pipeline.execute(), strict=True)
        return watch.sample(pipelines * PIPELINE, 1)
