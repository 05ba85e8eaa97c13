"""Each fault of the proxy, before a server that echoes."""

import asyncio
import contextlib
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import pytest

from flowstate.testing.faults import Proxy
from flowstate.testing.faults.ports import LOOPBACK, free_port

GONE = (ConnectionError, asyncio.IncompleteReadError)


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.received = b""
        self.port = free_port()
        self.ended = asyncio.Event()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                self.received += chunk
                writer.write(chunk)
                await writer.drain()
        self.ended.set()
        writer.close()


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, message: bytes) -> None:
        self.writer.write(message)

    async def ask(self, message: bytes) -> bytes:
        self.send(message)
        return await self.reader.readexactly(len(message))

    async def is_cut(self) -> bool:
        """Wait for what comes next; return whether it is the end."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    served = Echo()
    server = await asyncio.start_server(served.serve, LOOPBACK, served.port)
    yield served
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy(LOOPBACK, echo.port) as started:
        yield started


@contextlib.asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
    try:
        yield client
    finally:
        client.writer.close()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()


async def is_silent(client: Client) -> bool:
    """Whether nothing comes while the server has all the time that it needs for an answer."""
    try:
        async with asyncio.timeout(0.1):
            return not await client.reader.read(1)
    except TimeoutError:
        return True


async def test_forwards(proxy: Proxy) -> None:
    async with connected(proxy) as one, connected(proxy) as two:
        assert await one.ask(b"hello") == b"hello"
        assert await two.ask(b"x" * 3_000_000) == b"x" * 3_000_000
        assert (proxy.accepted, proxy.open) == (2, 2)


async def test_forwards_the_end_of_requests(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        client.send(b"hello")
        client.writer.write_eof()

        assert await client.reader.read() == b"hello"
        assert echo.ended.is_set()


async def test_forgets_connections_that_end(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"hello")
    await echo.ended.wait()
    await proxy.until_open(0)

    assert (proxy.accepted, proxy.open) == (1, 0)


async def test_cuts_all_connections_and_takes_new_ones(proxy: Proxy) -> None:
    async with connected(proxy) as one, connected(proxy) as two:
        await asyncio.gather(one.ask(b"hello"), two.ask(b"hello"))

        assert proxy.cut() == 2
        assert await one.is_cut()
        assert await two.is_cut()
        assert proxy.open == 0
    async with connected(proxy) as three:
        assert await three.ask(b"again") == b"again"


async def test_refuses_new_connections_only(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        assert await client.ask(b"during") == b"during"
        await proxy.accept()
        async with connected(proxy) as other:
            assert await other.ask(b"after") == b"after"


async def test_a_connection_that_is_being_made_ends_with_the_proxy(echo: Echo) -> None:
    async with Proxy(LOOPBACK, echo.port) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        while not proxy.accepted:  # noqa: ASYNC110 - no event is that early
            await asyncio.sleep(0)  # reason: the turn in which it is accepted must be the last
    async with asyncio.timeout(5.0):
        assert await Client(reader, writer).is_cut()
    writer.close()


async def test_ends_connections_while_the_server_is_down(proxy: Proxy) -> None:
    async with Proxy(LOOPBACK, free_port()) as nowhere, connected(nowhere) as client:
        assert await client.is_cut()


async def test_stalls_both_directions(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before")
        proxy.stall()
        client.send(b"during")
        async with connected(proxy) as other:
            other.send(b"other")
            assert await is_silent(client)
            assert echo.received == b"before"
            proxy.go_on()
            assert await other.reader.readexactly(5) == b"other"
        assert await client.reader.readexactly(6) == b"during"


async def test_stalls_replies_alone(proxy: Proxy, echo: Echo) -> None:
    proxy.stall(requests=False)
    async with connected(proxy) as client:
        client.send(b"hello")
        assert await is_silent(client)
        assert echo.received == b"hello"
        proxy.go_on()
        assert await client.reader.readexactly(5) == b"hello"


async def test_cuts_what_is_stalled(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before")
        proxy.stall()
        client.send(b"during")
        proxy.cut()
        assert await client.is_cut()
        proxy.go_on()
        await echo.ended.wait()

    assert echo.received == b"before"


async def test_ends_while_it_stalls(echo: Echo) -> None:
    async with Proxy(LOOPBACK, echo.port) as proxy:
        client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
        await client.ask(b"before")
        proxy.stall()
        client.send(b"during")

    assert await client.is_cut()
    client.writer.close()


async def test_delays_each_chunk_in_both_directions(proxy: Proxy) -> None:
    async with connected(proxy) as client:
        proxy.delay = 0.05
        started = time.monotonic()
        await client.ask(b"hello")

        assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("sizes", [(3, 4), (7, 1), (1, 1, 1, 1, 1, 1, 1), (20,)])
async def test_cuts_after_bytes_of_requests(
    proxy: Proxy, echo: Echo, sizes: tuple[int, ...]
) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before")
        cut = proxy.cut_after(7)
        with contextlib.suppress(*GONE):
            for size in sizes:
                await client.ask(b"x" * size)
        await cut.wait()
        await echo.ended.wait()

        assert await client.is_cut()
    assert echo.received == b"before" + b"x" * 7
    async with connected(proxy) as other:
        assert await other.ask(b"y" * 10) == b"y" * 10


async def test_counts_bytes_of_all_connections(proxy: Proxy) -> None:
    async with connected(proxy) as one, connected(proxy) as two:
        cut = proxy.cut_after(6)
        await one.ask(b"12345")
        two.send(b"6")
        await cut.wait()

        assert await two.is_cut()
        assert await one.ask(b"still here") == b"still here"


async def test_cuts_before_the_reply(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before")
        cut = proxy.cut_before_reply()
        assert not cut.is_set()
        client.send(b"request")

        assert await client.is_cut()
        assert cut.is_set()
    assert echo.received == b"beforerequest"
    async with connected(proxy) as other:
        assert await other.ask(b"again") == b"again"


async def test_cuts_before_the_reply_to_a_marked_request_only(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as one, connected(proxy) as two:
        cut = proxy.cut_before_reply(b"COMMIT")
        assert await one.ask(b"SELECT 1") == b"SELECT 1"
        assert await two.ask(b"INSERT") == b"INSERT"
        assert not cut.is_set()
        two.send(b"a COMMIT b")

        assert await two.is_cut()
        assert cut.is_set()
        assert await one.ask(b"COMMIT") == b"COMMIT"
    assert b"a COMMIT b" in echo.received


async def test_finds_a_marker_across_chunks(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        proxy.cut_before_reply(b"COMMIT")
        for letter in b"xCOMMI":
            assert await client.ask(bytes([letter])) == bytes([letter])
        client.send(b"T")

        assert await client.is_cut()
    assert echo.received == b"xCOMMIT"


async def test_cuts_after_the_reply_to_a_marked_request(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as one, connected(proxy) as two:
        cut = proxy.cut_after_reply(b"COMMIT")
        assert await one.ask(b"SELECT 1") == b"SELECT 1"
        assert not cut.is_set()
        assert await one.ask(b"COMMIT") == b"COMMIT"

        assert await one.is_cut()
        await cut.wait()
        assert await two.ask(b"COMMIT") == b"COMMIT"
    assert echo.received == b"SELECT 1COMMITCOMMIT"


async def test_leads_a_url_through(proxy: Proxy) -> None:
    there = f"127.0.0.1:{proxy.port}"

    assert proxy.url("redis://example:6379/2?a=b") == f"redis://{there}/2?a=b"
    assert proxy.url("postgresql://a:p%40@[::1]:1/b") == f"postgresql://a:p%40@{there}/b"
