"""A real process that a test kills, stops and lets go on, and with which it talks in lines."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["Worker"]

LONGEST_LINE = 1 << 24  # Bytes.


class Worker:
    """A Python process of its own; an async context manager, which kills it at the end.

    What it writes to stdout is read all the time, so it never waits for the test.

    Args:
        arguments: of the interpreter, the one that runs this: ``"-m", "my_package.worker"`` and
            those of the program.
        folder: that it runs in; this process's by default.
        environment: its variables; this process's by default.
        log: a file for what it writes to stderr; this process's stderr by default.
        timeout: seconds that each wait for it may take; ``None`` waits without end.
    """

    def __init__(
        self,
        *arguments: object,
        folder: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        log: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._arguments = list(map(str, arguments))
        self._folder = folder
        self._environment = environment
        self._log = log
        self._timeout = timeout
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def __aenter__(self) -> Self:
        with self._opened_log() as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                limit=LONGEST_LINE,
            )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if self._started.stdin is not None:
            self._started.stdin.close()
        try:
            if self._reading is not None:
                await self._reading
        finally:
            await self._started.wait()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._started.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, minus the signal if one ended it; ``None`` while it runs."""
        return self._started.returncode

    @property
    def is_stopped(self) -> bool:
        """Whether :meth:`stop` holds it."""
        return self._is_stopped

    def tell(self, line: str = "") -> None:
        """Send it a line, whatever becomes of that then."""
        stdin = self._started.stdin
        if stdin is not None:
            stdin.write(f"{line}\n".encode())

    async def line(self) -> str:
        """Return the next line that it writes, without the line break.

        Raises:
            EOFError: it says no more.
            TimeoutError: it says nothing for too long.
        """
        async with asyncio.timeout(self._timeout):
            line = await self._lines.get()
        if line is None:
            self._lines.put_nowait(None)
            raise EOFError(f"{self._arguments} says no more; exit code {self.exit_code}")
        return line

    async def said(self, word: str) -> list[str]:
        """Wait for a line that begins with a word, and return its other words.

        Raises:
            EOFError: it never says so.
            TimeoutError: it does not say so in time.
        """
        async with asyncio.timeout(self._timeout):
            while True:
                words = (await self.line()).split()
                if words[:1] == [word]:
                    return words[1:]

    def stop(self) -> None:
        """Hold it where it is (SIGSTOP): it keeps its locks, connections and leases."""
        self._signal(signal.SIGSTOP)
        self._is_stopped = True

    def go_on(self) -> None:
        """Let it go on (SIGCONT); for it, time has passed in a moment."""
        self._signal(signal.SIGCONT)
        self._is_stopped = False

    def kill(self) -> None:
        """End it as a crash does (SIGKILL); what it had written can still be read."""
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit code.

        Raises:
            TimeoutError: it goes on for too long.
        """
        async with asyncio.timeout(self._timeout):
            return await self._started.wait()

    async def finish(self) -> list[str]:
        """Close its stdin, wait until it ends, and return the lines that it still had to say.

        Raises:
            subprocess.CalledProcessError: its exit code is not 0.
            TimeoutError: it goes on for too long.
        """
        if self._started.stdin is not None:
            self._started.stdin.close()
        code = await self.ended()
        if code:
            raise subprocess.CalledProcessError(code, self._arguments)
        lines: list[str] = []
        with contextlib.suppress(EOFError):
            while True:
                lines.append(await self.line())
        return lines

    def _signal(self, by: signal.Signals) -> None:
        # Not by asyncio: before Python 3.13 its `send_signal` also polls, and where the process
        # has just ended that takes the exit code away from the thread that waits for it.
        if self._started.returncode is not None:
            raise ProcessLookupError(f"process {self.pid} has ended")
        os.kill(self.pid, by)

    @contextlib.contextmanager
    def _opened_log(self) -> Iterator[BinaryIO | None]:
        if self._log is None:
            yield None
        else:
            with Path(self._log).open("ab") as log:
                yield log

    @property
    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the process was not started: use `async with`")
        return self._process

    async def _read(self) -> None:
        stdout = self._started.stdout
        if stdout is None:
            return
        try:
            async for line in stdout:
                self._lines.put_nowait(line.decode(errors="replace").rstrip("\n"))
        except ValueError:  # A line that is too long.
            self._lines.put_nowait(None)
            while await stdout.read(LONGEST_LINE):
                pass  # Else its end would not be seen.
            raise
        finally:
            self._lines.put_nowait(None)
