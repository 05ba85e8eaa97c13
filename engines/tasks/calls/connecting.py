"""Connections of outgoing requests: to checked addresses only, and with bounded answers."""

import ssl
import zlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

import attrs
import httpcore
import httpx

from flowstate.engines.tasks.errors import TaskError

__all__ = ["Connections", "MOST_AT_ONCE", "origin_of"]

STEP = 65_536
MOST_AT_ONCE = 100  # Requests, and long ones; the pool takes longer for each that waits in it.
IDLE = 5.0  # Seconds that a connection is kept for the next request.

Addresses = Callable[[str, int], Awaitable[Sequence[str]]]
Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@attrs.define(eq=False)
class _Network(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, so that no second answer of DNS counts."""

    addresses: Addresses
    _plain: httpcore.AsyncNetworkBackend = attrs.field(factory=httpcore.AnyIOBackend, init=False)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[Option] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in await self.addresses(host, port):
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Body(httpx.AsyncByteStream):
    """The body of an answer, decompressed here because httpx sets no bound to that."""

    def __init__(self, stream: Any, encoding: str, most: int) -> None:
        self._stream, self._encoding, self._most = stream, encoding, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise _broken("has an encoding that was not asked for")
        gzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in self._encoding else None
        received = given = 0
        async for chunk in self._stream:
            received += len(chunk)
            for part in [chunk] if gzip is None else _inflated(gzip, chunk):
                given += len(part)
                if max(received, given) > self._most:
                    raise _broken(f"has more than {self._most} bytes")
                yield part
        if gzip is not None and received and not gzip.eof:
            raise _broken("is cut short")

    async def aclose(self) -> None:
        await self._stream.aclose()


def _inflated(gzip: Any, chunk: bytes) -> Iterator[bytes]:
    while chunk and not gzip.eof:
        try:
            yield gzip.decompress(chunk, STEP)
        except zlib.error:
            raise _broken("is no gzip") from None
        chunk = gzip.unconsumed_tail


def _broken(text: str) -> TaskError:
    return TaskError.of("communication", f"the body of the answer {text}")


@attrs.define(eq=False)
class Connections(httpx.AsyncBaseTransport):
    """The transport of the client; it is asked for each request, also for redirects.

    Attributes:
        check: raises for a URL that may not be requested.
        addresses: returns where a host is, if it may be reached.
        most_bytes: of a body, before and after it is decompressed.
        tls: for ``https``.
        stand_ins: origins that stand in for others.
    """

    check: Callable[[httpx.URL], None]
    addresses: Addresses
    most_bytes: int
    tls: ssl.SSLContext
    stand_ins: Mapping[str, httpx.URL]
    _pool: httpcore.AsyncConnectionPool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=self.tls,
            max_connections=2 * MOST_AT_ONCE,
            keepalive_expiry=IDLE,
            network_backend=_Network(self.addresses),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the answer, whose body is not read yet."""
        url = request.url
        origin = self.stand_ins.get(origin_of(url))
        if origin is None:
            self.check(url)
            origin = url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=origin.raw_scheme,
                    host=origin.raw_host,
                    port=origin.port,
                    target=url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        headers = httpx.Headers(answer.headers)
        encoding = headers.pop("content-encoding", "").strip().lower()
        body = _Body(answer.stream, encoding, self.most_bytes)
        return httpx.Response(answer.status, headers=headers, stream=body)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def origin_of(url: httpx.URL) -> str:
    """Return the scheme, host and port of a URL."""
    return f"{url.scheme}://{url.netloc.decode()}"
