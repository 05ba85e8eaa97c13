"""The Lua scripts, and how they are run."""

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

        The server forgets scripts when it starts anew; then it gets the text once more.
        """
        script, digest = _script(name)
        execute: Any = self._client.execute_command
        keys = (1, self._prefix, *arguments)
        try:
            return await execute("EVALSHA", digest, *keys, **RAW)
        except NoScriptError:
            return await execute("EVAL", script, *keys, **RAW)
