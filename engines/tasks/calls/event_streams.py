"""Answers that come piece by piece: lines, and server-sent events."""

from collections.abc import AsyncIterator

import httpx

__all__ = ["EVENT_STREAM", "events", "lines"]

EVENT_STREAM = "text/event-stream"


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Iterate over the lines of an answer as they come, without their ends."""
    rest = b""
    async for piece in response.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


async def events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Iterate over the data of server-sent events as they come."""
    data: list[bytes] = []
    async for line in lines(response):
        if line.startswith(b"data:"):
            data.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
    if data:
        yield b"\n".join(data)
