"""A TCP proxy that has all the faults a network can have, when a test says so.

Requests are what clients send, replies what the server sends.
"""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from flowstate.testing.faults.ports import LOOPBACK, free_port

__all__ = ["Proxy"]

CHUNK = 65_536


class _Doom:
    """What shall happen to the connection whose request has the marker."""

    def __init__(self, marker: bytes, *, after: bool) -> None:
        self.marker = marker
        self.after = after
        self.happened = asyncio.Event()


class _Link:
    """A connection of a client, and the one to the server that belongs to it."""

    def __init__(
        self, client: tuple[StreamReader, StreamWriter], server: tuple[StreamReader, StreamWriter]
    ) -> None:
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.doom: _Doom | None = None
        self.tail = b""
        self.is_forgotten = False

    def cut(self) -> None:
        """End both; nothing that is on its way arrives any more."""
        self.to_client.transport.abort()
        self.to_server.transport.abort()


class Proxy:
    """Forwards TCP connections to a server, whatever it is; an async context manager.

    Args:
        target_host: of the server.
        target_port: of the server.

    Attributes:
        host: where it listens.
        port: the same until the end, also while it refuses connections.
        delay: how many seconds each chunk waits, in either direction, before it goes on.
        accepted: how many connections there have been.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self.delay = 0.0
        self.accepted = 0
        self._target = (target_host, target_port)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._is_closed = False
        self._requests_flow = asyncio.Event()
        self._replies_flow = asyncio.Event()
        self._left: int | None = None
        self._spent = asyncio.Event()
        self._doom: _Doom | None = None
        self.go_on()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, url: str) -> str:
        """Return a URL of the server, with the proxy in the place of its host and port."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{self.host}:{self.port}").geturl()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    async def until_open(self, count: int) -> None:
        """Wait until there are so many connections."""
        while self.open != count:
            self._changed.clear()
            await self._changed.wait()

    def cut(self) -> int:
        """Cut all connections now; return how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        self._links.clear()
        self._changed.set()
        return len(links)

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Take new connections again."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)

    def stall(self, *, requests: bool = True, replies: bool = True) -> None:
        """Forward nothing, in these directions; connections stay open and new ones are taken."""
        if requests:
            self._requests_flow.clear()
        if replies:
            self._replies_flow.clear()

    def forget(self) -> int:
        """Let connections that are open now carry nothing any more; return how many there are.

        That is what a router does that has forgotten them: nothing fails, and new ones work.
        """
        for link in self._links:
            link.is_forgotten = True
        return len(self._links)

    def go_on(self) -> None:
        """Forward again, beginning with what was held back."""
        self._requests_flow.set()
        self._replies_flow.set()

    def cut_after(self, request_bytes: int) -> asyncio.Event:
        """Cut the connection that sends the last of so many bytes of requests, counted from now.

        The server gets exactly these bytes, and then the end of the connection. The client gets
        no reply to them. Returns what is set when it has happened; it happens once.
        """
        self._left, self._spent = request_bytes, asyncio.Event()
        return self._spent

    def cut_before_reply(self, marker: bytes = b"") -> asyncio.Event:
        """Cut a connection when the server replies to the next request that contains the marker.

        The server has seen the whole request by then, and the client gets no byte of the reply.
        Returns what is set when it has happened; it happens once.
        """
        return self._doomed(marker, after=False)

    def cut_after_reply(self, marker: bytes = b"") -> asyncio.Event:
        """Cut a connection after the server's reply to the next request that contains the marker.

        The client gets what the server sends at first, at most 64 KiB, and then the end of the
        connection. Returns what is set when it has happened; it happens once.
        """
        return self._doomed(marker, after=True)

    def _doomed(self, marker: bytes, *, after: bool) -> asyncio.Event:
        self._doom = _Doom(marker, after=after)
        return self._doom.happened

    def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        if self._is_closed:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            writer.transport.abort()  # Also of a task that was cancelled before it began.

        task.add_done_callback(end)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server = await asyncio.open_connection(*self._target)
            await self._forward(_Link((reader, writer), server))

    async def _forward(self, link: _Link) -> None:
        self._links.add(link)
        self._changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(link))
                group.create_task(self._replies(link))
        except* OSError:
            pass  # One side is gone, and so is the other one then.
        finally:
            link.cut()
            self._links.discard(link)
            self._changed.set()

    async def _requests(self, link: _Link) -> None:
        while chunk := await link.from_client.read(CHUNK):
            await self._hold(link, self._requests_flow)
            if self._left is not None and self._left <= len(chunk):
                await self._cut_after(link, chunk[: self._left])
                return
            if self._left is not None:
                self._left -= len(chunk)
            self._look_for_marker(link, chunk)
            link.to_server.write(chunk)
            await link.to_server.drain()
        _end(link.to_server)

    async def _replies(self, link: _Link) -> None:
        while chunk := await link.from_server.read(CHUNK):
            doom = link.doom
            if doom is not None and not doom.after:
                link.cut()
                doom.happened.set()
                return
            await self._hold(link, self._replies_flow)
            link.to_client.write(chunk)
            await link.to_client.drain()
            if doom is not None:
                await self._cut_after_reply(link, doom)
                return
        _end(link.to_client)

    async def _hold(self, link: _Link, flow: asyncio.Event) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await flow.wait()
        if link.is_forgotten:
            await asyncio.Event().wait()  # Until the proxy ends.

    async def _cut_after(self, link: _Link, last: bytes) -> None:
        self._left = None
        link.to_client.transport.abort()
        link.to_server.write(last)
        link.to_server.close()
        with contextlib.suppress(OSError):
            await link.to_server.wait_closed()
        self._spent.set()

    async def _cut_after_reply(self, link: _Link, doom: _Doom) -> None:
        link.to_server.transport.abort()
        link.to_client.close()
        with contextlib.suppress(OSError):
            await link.to_client.wait_closed()
        doom.happened.set()

    def _look_for_marker(self, link: _Link, chunk: bytes) -> None:
        """Doom the connection whose request has the marker, also across two chunks."""
        doom = self._doom
        if doom is None:
            return
        seen = link.tail + chunk
        if doom.marker in seen:
            link.doom, self._doom = doom, None
        else:
            link.tail = seen[-len(doom.marker) :]


def _end(writer: StreamWriter) -> None:
    """Pass on that the other side says no more."""
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()
