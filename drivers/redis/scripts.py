"""The Lua scripts, and how they are run."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError

from flowstate.drivers.redis.options import Client

__all__ = ["Scripts"]

PARTS = {
    "beat": ("writing",),
    "commit": ("entries", "delays", "writing", "delaying"),
    "compact": ("entries", "writing"),
    "count": ("postings",),
    "due": ("entries", "delays", "stored"),
    "history": ("entries", "stored"),
    "liveness": ("delays",),
    "page": ("entries", "stored", "postings"),
    "state": ("entries", "stored"),
    "traces": ("entries", "stored"),
    "upgrade_1": ("entries", "delays", "writing", "delaying"),
    "upgrade_2": ("entries", "writing"),
}
"""What stands in front of a script, after what all of them have."""
RAW = {NEVER_DECODE: True}  # Also from a client that decodes replies.


@cache
def _script(name: str) -> tuple[bytes, str]:
    """Return a script and its digest, by which the server knows it."""
    folder = resources.files("flowstate.drivers.redis").joinpath("lua")
    parts = ("common", *PARTS.get(name, ()), name)
    script = b"\n".join(folder.joinpath(f"{part}.lua").read_bytes() for part in parts)
    return script, sha1(script).hexdigest()  # noqa: S324 - the digest that the server asks for


class Scripts:
    """Runs scripts on the keys of one namespace, each of them atomic.

    A server that was restarted has forgotten the scripts; then it gets the text once more.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._prefix = prefix

    async def run(self, name: str, *arguments: Any) -> Any:
        """Return a script's answer, as bytes."""
        script, digest = _script(name)
        execute, keys = self._client.execute_command, (1, self._prefix, *arguments)
        try:
            return await execute("EVALSHA", digest, *keys, **RAW)
        except NoScriptError:
            return await execute("EVAL", script, *keys, **RAW)

    async def run_and_wait(
        self, name: str, arguments: Sequence[Any], wait_aof: tuple[int, int, int]
    ) -> tuple[Any, Sequence[int]]:
        """Return a script's answer, and how many have it on disk: this server, and replicas.

        The last number of ``wait_aof`` are milliseconds. Both are asked on one connection, because
        the server waits for what came by that one.
        """
        script, digest = _script(name)
        wait = ("WAITAOF", *wait_aof)
        answer, counts = await self._both(("EVALSHA", digest, 1, self._prefix, *arguments), wait)
        if isinstance(answer, NoScriptError):
            answer, counts = await self._both(("EVAL", script, 1, self._prefix, *arguments), wait)
        if isinstance(answer, Exception):
            raise answer
        return answer, (0, 0) if isinstance(counts, Exception) else list(map(int, counts))

    async def _both(self, first: Sequence[Any], second: Sequence[Any]) -> Any:
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*first, **RAW)
            pipeline.execute_command(*second)
            return await pipeline.execute(raise_on_error=False)
