"""The Lua scripts, and how they are run."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError

__all__ = ["Scripts"]

RAW = {NEVER_DECODE: True}  # Also from a client that decodes replies.


@cache
def _script(name: str) -> tuple[bytes, str]:
    """Return a script and its digest, by which the server knows it."""
    folder = resources.files("flowstate.drivers.redis").joinpath("lua")
    parts = [folder.joinpath(f"{part}.lua").read_bytes() for part in ("common", name)]
    script = b"\n".join(parts)
    return script, sha1(script).hexdigest()  # noqa: S324 - the digest that the server asks for


class Scripts:
    """Runs scripts on the keys of one namespace, each of them atomic."""

    def __init__(self, client: Redis | RedisCluster, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def run(self, name: str, *arguments: Any) -> Any:
        """Return a script's answer, as bytes.

        A server that was restarted has forgotten the scripts; then it gets the text once more.
        """
        script, digest = _script(name)
        execute: Any = self._client.execute_command
        keys = (1, self._prefix, *arguments)
        try:
            return await execute("EVALSHA", digest, *keys, **RAW)
        except NoScriptError:
            return await execute("EVAL", script, *keys, **RAW)

    async def run_and_wait(
        self, name: str, arguments: Sequence[Any], wait_aof: tuple[int, int, int]
    ) -> tuple[Any, tuple[int, int]]:
        """Return a script's answer, and how many have it on disk: this server, and replicas.

        The last number of ``wait_aof`` are milliseconds.

        Both are asked on one connection, because the server waits for what came by that one.
        """
        script, digest = _script(name)
        keys = (1, self._prefix, *arguments)
        wait = ("WAITAOF", *wait_aof)
        answer, counts = await self._both(("EVALSHA", digest, *keys), wait)
        if isinstance(answer, NoScriptError):
            answer, counts = await self._both(("EVAL", script, *keys), wait)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(counts, Exception):
            return answer, (0, 0)
        return answer, (int(counts[0]), int(counts[1]))

    async def _both(self, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        pipeline: Any = self._client.pipeline(transaction=False)
        async with pipeline:
            pipeline.execute_command(*first, **RAW)
            pipeline.execute_command(*second)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies
