"""Connections that are encrypted, by a proxy, since a server need not have been built for it."""

import asyncio
import contextlib
import ssl
import subprocess
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowstate import StoreUnavailableError
from flowstate.drivers.redis import RedisDriver
from flowstate.testing.faults.ports import LOOPBACK, free_port
from tests.redis_servers import RedisServer
from tests.support import commit_one, put


async def forward(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for the loopback interface, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


@pytest.fixture
async def url(private_redis: RedisServer, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """The URL that leads through TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        server = await asyncio.open_connection(LOOPBACK, private_redis.port)
        for ends in ((reader, server[1]), (server[0], writer)):
            tasks.add(asyncio.create_task(forward(*ends)))

    port = free_port()
    listener = await asyncio.start_server(serve, LOOPBACK, port, ssl=context)
    url = private_redis.url().replace("redis://", "rediss://")
    yield url.replace(f":{private_redis.port}", f":{port}")
    listener.close()
    await asyncio.wait(tasks, timeout=5.0) if tasks else None


async def test_tls(url: str, certificate: tuple[Path, Path]) -> None:
    async with RedisDriver(f"{url}?ssl_ca_certs={certificate[0]}", namespace="tls") as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        assert state.rev == 1


async def test_an_unknown_certificate_is_refused_at_once(url: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        await RedisDriver(url, timeout=10.0).__aenter__()
    assert time.monotonic() - started < 5.0
