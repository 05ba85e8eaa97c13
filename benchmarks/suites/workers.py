"""Other processes that commit when they are told to."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.stores.store import Address

__all__ = ["BEGAN", "Worker"]

ROOT = Path(__file__).parent.parent.parent
BEGAN = "began"  # An annotation: when a commit did, in nanoseconds of the monotonic clock.


class Worker:
    """A process that works until ``stack`` is closed."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, stack: AsyncExitStack, role: str, address: Address, *options: str
    ) -> "Worker":
        """Start one.

        Args:
            stack: at whose end it ends.
            role: "committer", as fast as it can, or "writer", at a steady pace.
            address: of the store to commit to.
            options: of the command line.
        """
        where = (address.store, address.where, address.name)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.worker",
            role,
            *where,
            *options,
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
        )
        stack.push_async_callback(process.communicate, b"")
        return cls(process)

    async def commit(self, count: int) -> float:
        """Have it commit so often; return the seconds of CPU that it took.

        Raises:
            RuntimeError: it has ended.
        """
        given, answer = self._process.stdin, self._process.stdout
        if given is None or answer is None:
            raise AssertionError
        given.write(f"{count}\n".encode())
        line = await answer.readline()
        if not line:
            raise RuntimeError("a process has ended")
        return float(line)
