"""A worker process, as seen by the process that has started it."""

import asyncio
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from typing import cast

import attrs

from flowstate.engines.expressions import worker
from flowstate.engines.expressions.worker import LENGTH

__all__ = ["Program", "WorkerProcess", "started"]

BUFFER = 65_536
LATE = 3.0  # So many times the seconds may pass on the clock, if the processors are busy ...
START = 10.0  # ... and so many more, while the process starts.
MARGIN = 4_096  # Bytes of a reply that are no result.


class WorkerProcess(asyncio.BufferedProtocol):
    """Sends requests, one at a time, and kills the process if that replies too late.

    Attributes:
        is_open: whether it can be sent a request.
    """

    def __init__(
        self, process: Popen[bytes], patience: float, most: int, freed: Callable[[], None]
    ) -> None:
        self.is_open = True
        self._process = process
        self._patience, self._most, self._freed = patience, most, freed
        self._loop = asyncio.get_running_loop()
        # Its own, since asyncio's protocols make a quarter of a megabyte for each that they read.
        self._buffer = memoryview(bytearray(BUFFER))
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Return its reply, when there is one; it is empty if the process has ended.

        The process stays busy with it also if the caller is cancelled.
        """
        answer = self._answer = self._loop.create_future()
        if not self.is_open:
            self._reply(b"")
            return answer
        self._deadline = self._loop.time() + self._patience
        if self._timer is None:  # One for very many requests.
            self._timer = self._loop.call_at(self._deadline, self._look)
        self._transport.write(request)
        return answer

    async def was_too_slow(self) -> bool:
        """Return whether the process has ended since a request took too much time."""
        return await asyncio.to_thread(self._process.wait) == -signal.SIGPROF or self._is_late

    async def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._transport.abort()
        await asyncio.to_thread(self._process.wait)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it has its own size
        """Return where to write what comes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Collect a reply."""
        self._received += self._buffer[:nbytes]
        if len(self._received) < LENGTH.size:
            return
        size = LENGTH.unpack_from(self._received)[0]
        if size > self._most:
            self._process.kill()
        elif len(self._received) == LENGTH.size + size:
            reply = bytes(self._received[LENGTH.size :])
            self._received.clear()
            self._reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why is all the same
        """Take note that the process has ended, or is about to."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()
        self._loop.run_in_executor(None, self._process.wait)  # Else it would stay as a zombie.
        self._reply(b"")

    def _reply(self, reply: bytes) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if not answer.done():
            answer.set_result(reply)
        self._freed()

    def _look(self) -> None:
        self._timer = None
        if self._answer is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        self._is_late = True
        self._process.kill()


@attrs.frozen
class Program:
    """What a worker process runs, and its limits.

    Attributes:
        evaluator: its file.
        package: that it needs.
        seconds: of processor time for one request.
        memory: bytes.
        result: bytes of a result.
        results: how many results one request may have.
    """

    evaluator: str
    package: str
    seconds: float
    memory: int
    result: int
    results: int

    def folders(self) -> str:
        """Return where its packages are.

        Raises:
            ModuleNotFoundError: the package is not installed.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            text = f"expressions need the package {self.package}: pip install {self.package}"
            raise ModuleNotFoundError(text, name=self.package)
        return os.pathsep.join([str(Path(found.origin).parent), *filter(os.path.isdir, sys.path)])

    def spawn(self, descriptor: int) -> Popen[bytes]:
        """Return a new process that is sent requests through a socket."""
        start = [sys.executable, "-I", "-S", worker.__file__, self.folders(), self.evaluator]
        numbers = (descriptor, self.seconds, self.memory, self.result, self.results)
        with TemporaryDirectory() as folder:  # It stays there when that is gone.
            return Popen(  # noqa: S603 - of constants and numbers
                [*start, *map(str, numbers)],
                pass_fds=[descriptor],
                env={},
                cwd=folder,
                start_new_session=True,  # Else it would get the signals of our terminal, too.
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
            )


async def started(program: Program, freed: Callable[[], None]) -> WorkerProcess:
    """Return a new worker process.

    Args:
        program: that it runs.
        freed: is called whenever it can be sent another request, or has ended.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = program.spawn(theirs.fileno())
        except BaseException:
            ours.close()
            raise
    patience = LATE * program.seconds + START
    make = partial(WorkerProcess, process, patience, program.result + MARGIN, freed)
    loop = asyncio.get_running_loop()
    return (await loop.create_unix_connection(make, sock=ours))[1]
