"""Runs programs, bounded in time and output, and ends them with all that they have started."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from flowstate.engines.tasks.errors import TaskError
from flowstate.ground.frozen import EMPTY

__all__ = ["Ended", "Processes", "kill", "run_program", "start_program", "text_of"]

logger = logging.getLogger(__name__)

CHUNK = 65_536
PROGRAMS = {
    "container": "docker",
    "javascript": "node",
    "python": sys.executable,
    "shell": "/bin/sh",
}


@attrs.frozen
class Ended:
    """How a program has ended.

    Attributes:
        code: its exit code; negative: the signal that has ended it.
        stdout: what it has written there; what is not UTF-8 is replaced.
        stderr: the same.
    """

    code: int
    stdout: str
    stderr: str


@attrs.define(eq=False)
class Processes:
    """Which programs tasks may run, and within which bounds; none by default. On POSIX systems.

    Attributes:
        container: ``run.container`` is allowed.
        script: ``run.script`` is allowed.
        shell: ``run.shell`` is allowed.
        mcp: ``call: mcp`` may start a server that speaks over its standard streams.
        volumes: folders of this machine that a container may mount, with all below them.
        seconds: that a program may take.
        most_bytes: that it may write to stdout, and to stderr.
        programs: by what ``container``, ``javascript``, ``python`` and ``shell`` are run; what is
            left out is ``docker``, ``node``, this interpreter and ``/bin/sh``.
        most_left: programs that may run with ``await: false`` at once.
    """

    container: bool = False
    script: bool = False
    shell: bool = False
    mcp: bool = False
    volumes: Sequence[Path | str] = ()
    seconds: float = 300.0
    most_bytes: int = 1024 * 1024
    programs: Mapping[str, str] = EMPTY
    most_left: int = 64
    _left: set[asyncio.Task[Any]] = attrs.field(factory=set, init=False)

    def check(self, kind: str) -> None:
        """Refuse what is switched off.

        Raises:
            TaskError: ``authorization``.
        """
        if not getattr(self, kind):
            raise TaskError.of("authorization", f"{kind} is switched off in this runtime")

    def program(self, name: str) -> str:
        """Return by what something is run."""
        return self.programs.get(name, PROGRAMS[name])

    def leave(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run something that nothing waits for; its failure is logged.

        Raises:
            TaskError: ``runtime``: too much runs already.
        """
        if len(self._left) >= self.most_left:
            work.close()
            raise TaskError.of("runtime", f"{self.most_left} programs run already", status=503)
        task = asyncio.create_task(work, name=name)
        self._left.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """End what was left running, and wait until it has ended."""
        left = list(self._left)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("%s has failed: %s", task.get_name(), task.exception())


async def run_program(
    arguments: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] = EMPTY,
    folder: str,
    within: Processes,
) -> Ended:
    """Run a program until it has ended and its output is closed.

    When it has taken too long, has written too much, or the caller is cancelled, it is killed with
    its process group: all that it has started and that has not left the group on purpose.

    Args:
        arguments: the program, and its arguments.
        stdin: what it can read.
        environment: all of its environment besides ``PATH``.
        folder: in which it runs.
        within: says what it may take.

    Raises:
        TaskError: ``runtime``: it cannot be started, or has written too much; ``timeout``.
    """
    process = await start_program(arguments, environment, folder)
    try:
        async with asyncio.timeout(within.seconds), asyncio.TaskGroup() as group:
            group.create_task(_feed(process, stdin.encode()))
            streams = (process.stdout, process.stderr)
            read = [group.create_task(_read(process, each, within.most_bytes)) for each in streams]
            code = group.create_task(process.wait())  # It may have closed its output long before.
    except TimeoutError:
        detail = f"{arguments[0]} took more than {within.seconds:g} s"
        raise TaskError.of("timeout", detail) from None
    finally:
        await kill(process)
    out, err = (each.result() for each in read)
    if max(len(out), len(err)) > within.most_bytes:
        detail = f"{arguments[0]} has written more than {within.most_bytes} bytes"
        raise TaskError.of("runtime", detail)
    return Ended(code.result(), out.decode(errors="replace"), err.decode(errors="replace"))


async def start_program(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    *,
    stderr: int = asyncio.subprocess.PIPE,
    limit: int = CHUNK,
) -> asyncio.subprocess.Process:
    """Start a program as the leader of a process group; its lines have ``limit`` bytes at most."""
    pipe = asyncio.subprocess.PIPE
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *arguments,
            stdin=pipe,
            stdout=pipe,
            stderr=stderr,
            limit=limit,
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            cwd=folder,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # While it starts, asyncio would lose it, and wait without an end.
        with contextlib.suppress(OSError, ValueError):
            await kill(await starting)
        raise
    except (OSError, ValueError) as error:
        # Not the text of the error: it may have the arguments, and a secret in them.
        detail = f"{arguments[0]} cannot be started: {type(error).__name__}"
        raise TaskError.of("runtime", detail) from None


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a program and its process group, at once."""
    _kill(process)
    # What has left the group may keep its output open; no public method closes it here.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
    await asyncio.shield(process.wait())


def text_of(value: Any) -> str:
    """Return what a program is given for a value: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    stdin = process.stdin
    assert stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _read(
    process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None, most: int
) -> bytes:
    assert stream is not None  # noqa: S101 - it is a pipe
    data = bytearray()
    while chunk := await stream.read(CHUNK):
        if len(data) > most:
            _kill(process)
        else:
            data += chunk
    return bytes(data)
