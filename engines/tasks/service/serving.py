"""Serves a folder of documents until it is told to end."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from flowstate import (
    CommitUnknownError,
    Delayer,
    Driver,
    DriverError,
    Engine,
    FlowRegistry,
    FlowstateError,
    InvalidInputError,
)
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.forwarding import forwarder, posting
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.tasks import Tasks
from flowstate.recovery import Recoverer

__all__ = ["Server", "driver_of", "files_of", "serve"]

PATTERNS = ("*.yaml", "*.yml", "*.json")


class Server(uvicorn.Server):
    """A server that leaves signals to us: what it serves is to be closed before the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


async def serve(
    folder: Path,
    store: str,
    host: str,
    port: int,
    *,
    tokens: Collection[str],
    look: float,
    sink: str,
    given: Mapping[str, Any],
) -> None:
    """Serve documents until SIGINT or SIGTERM; SIGHUP looks for changed files at once.

    Args:
        folder: of documents, with all folders in it.
        store: a URL; see :func:`driver_of`.
        host: of the address.
        port: of the address; 0: a free one.
        tokens: see :func:`app`.
        look: seconds from one look for changed files to the next.
        sink: a URL to which lifecycle events are posted; empty: none.
        given: to ``Tasks``.

    Raises:
        FlowstateError: the store or a document is refused.
        OSError: the address is not to be had.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, port)))
        engine = await stack.enter_async_context(Engine(driver_of(store), FlowRegistry()))
        tasks = await stack.enter_async_context(Tasks(engine, **given))
        files = Files(tasks, folder)
        if not await files.look():
            raise FlowstateError("a document is refused")
        await stack.enter_async_context(Delayer(engine))
        await stack.enter_async_context(Recoverer(engine))
        if sink:
            deliver = posting(given["outgoing"], sink)
            await stack.enter_async_context(forwarder(engine, deliver, emitted=True))
        served = app(tasks, tokens=tokens)
        server = Server(uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=3))
        _on_signals(server, tasks, files)
        at = "{}:{}".format(*listener.getsockname())
        say(f"serving on http://{at}, the store is {_shown(store)}")
        looking = asyncio.create_task(files.look_on(look))
        stack.callback(looking.cancel)
        await server.serve(sockets=[listener])
        say("ending")


def _on_signals(server: Server, tasks: Tasks, files: "Files") -> None:
    def end(number: int) -> None:
        tasks.ending.set()
        server.handle_exit(number, None)

    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # On Windows, Ctrl+C ends it the hard way.
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, end, each)
        loop.add_signal_handler(signal.SIGHUP, files.changed.set)


def files_of(path: Path) -> Sequence[Path]:
    """Return the documents in a folder and in those in it; a file is one by itself."""
    if not path.is_dir():
        return [path]
    return sorted(each for kind in PATTERNS for each in path.rglob(kind))


class Files:
    """The documents in a folder, which are stored whenever they have changed.

    Attributes:
        changed: set it to look at once.
    """

    def __init__(self, tasks: Tasks, folder: Path) -> None:
        self._tasks, self._folder = tasks, folder
        self._seen: dict[Path, tuple[int, int]] = {}
        self.changed = asyncio.Event()

    async def look(self) -> bool:
        """Store the documents that have changed; return whether none of them is refused."""
        if not self._folder.is_dir():
            raise InvalidInputError("folder", f"there is no folder {self._folder}")
        known, self._seen = self._seen, await asyncio.to_thread(self._stamps)
        changed = [path for path in sorted(self._seen) if known.get(path) != self._seen[path]]
        return all([await self._store(path) for path in changed])

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in files_of(self._folder):
            with contextlib.suppress(OSError):  # It is gone by now.
                stat = path.stat()
                found[path] = (stat.st_mtime_ns, stat.st_size)
        return found

    async def _store(self, path: Path) -> bool:
        try:
            text = await asyncio.to_thread(path.read_text, "utf-8")
            document, is_new = await self._tasks.add(text, file=str(path))
        except (DriverError, CommitUnknownError, OSError) as error:
            self._seen.pop(path, None)  # The next look tries again.
            say(f"not stored: {path}: {error}")
            return False
        except (FlowstateError, TaskError, UnicodeDecodeError) as error:
            say(f"refused: {error}" if str(path) in str(error) else f"refused: {path}: {error}")
            return False
        if is_new:
            say(f"stored {document.key} of {path}")
        return True

    async def look_on(self, seconds: float) -> None:
        """Look for changes until this is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.changed.wait()
                say("looking for changed documents")
            self.changed.clear()
            try:
                await self.look()
            except (FlowstateError, OSError) as error:
                say(str(error))


def driver_of(url: str) -> Driver:
    """Return the driver of a store.

    Args:
        url: ``sqlite:///PATH``, ``postgresql://...``, ``redis://...`` or ``memory:``.

    Raises:
        InvalidInputError: it is none of these.
        ImportError: the extra is not installed.
    """
    match urlsplit(url).scheme:
        case "sqlite" if url.startswith("sqlite:///"):
            from flowstate.drivers.sqlite import SQLiteDriver  # noqa: PLC0415 - what is asked for

            return SQLiteDriver(Path(url.removeprefix("sqlite:///")))
        case "postgres" | "postgresql":
            from flowstate.drivers.postgres import PostgresDriver  # noqa: PLC0415 - an extra

            return PostgresDriver(url)
        case "redis" | "rediss" | "unix":
            from flowstate.drivers.redis import RedisDriver  # noqa: PLC0415 - an extra

            return RedisDriver(url)
        case "memory":
            from flowstate.drivers.memory import MemoryDriver  # noqa: PLC0415 - what is asked for

            return MemoryDriver()
    kinds = "sqlite:///FILE, postgresql://..., redis://... or memory:"
    raise InvalidInputError("store", f"must be {kinds}, not {url!r}")


def _shown(url: str) -> str:
    """Return a URL without what is secret in it."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def say(text: str) -> None:
    """Tell the operator something."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - it is a program
