"""Servers on real ports: of an app, and of bytes that no well-behaved server sends."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

__all__ = ["CERTIFICATE", "bytes_served", "served", "trusting"]

CERTIFICATE = Path(__file__).parent / "localhost.pem"
"""Key and certificate of localhost and api.example, good until 2120; they prove nothing else."""


@contextlib.asynccontextmanager
async def served(app: Any, *, tls: bool = False) -> AsyncIterator[str]:
    """Serve an ASGI app in this event loop, and give its origin."""
    options: dict[str, Any] = (
        {"ssl_keyfile": CERTIFICATE, "ssl_certfile": CERTIFICATE} if tls else {}
    )
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none", **options)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    finally:
        for each in server.servers:  # Its own way to shut down sleeps for a tenth of a second.
            each.close()
        while connections := list(server.server_state.connections):
            for connection in connections:
                connection.shutdown()
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def bytes_served(
    answer: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Answer each request with bytes, and give the origin."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # The client has enough, or the test has ended.
        finally:
            writer.close()

    accepted: list[Any] = []
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in accepted:
            task.cancel()
        await asyncio.gather(*accepted)


def trusting() -> ssl.SSLContext:
    """Return what trusts the certificate of the tests."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))
