"""Processes that want to recover, as the tests see them."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

__all__ = ["Candidate", "candidate"]

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 20.0


class Candidate:
    """A process that runs candidate.py.

    Attributes:
        process: it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self, word: str) -> list[str]:
        """Wait for a line that begins with a word, and return the others."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIME_LIMIT):
            while line := (await self.process.stdout.readline()).decode().split():
                if line[0] == word:
                    return line[1:]
        raise EOFError(f"it never said {word!r}")

    def tell(self) -> None:
        """Let it go on with a commit that it holds."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go on\n")

    def stop(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        await self.process.wait()

    async def leave(self) -> None:
        """Let it end in order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(TIME_LIMIT):
            assert await self.process.wait() == 0


@contextlib.asynccontextmanager
async def candidate(url: str, schema: str, lease: float, *words: str) -> AsyncIterator[Candidate]:
    """Start one, and kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.recovery.candidate", url, schema, str(lease), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Candidate(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
