"""Outgoing requests: what they may reach, and the client that keeps to that."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import attrs
import httpcore
import httpx
from msgspec import Struct

from flowstate.engines.tasks.calls.addresses import host_name, is_address, is_public
from flowstate.engines.tasks.calls.connecting import MOST_AT_ONCE, Connections, origin_of
from flowstate.engines.tasks.calls.remembering import Remembered
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["Answer", "Options", "Outgoing", "outgoing_of"]

PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024
TIMEOUTS = {"connect": 10.0}  # Seconds for one address; the whole has its own.
USUAL_HEADERS = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "flowstate"}
# What may follow a redirect to another host; anything else may tell who asks.
KEPT_HEADERS = {*USUAL_HEADERS, "accept-language", "content-length", "content-type"}


class Answer(Struct, frozen=True):
    """What a request was answered with.

    Attributes:
        status: of HTTP.
        headers: by name, in lower case.
        content: the whole body, decompressed.
        url: of the last request, after redirects.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str

    @classmethod
    async def of(cls, response: httpx.Response) -> Self:
        """Return the whole of a response whose body is not read yet."""
        content = await response.aread()
        return cls(response.status_code, dict(response.headers), content, str(response.url))


class Options(TypedDict, total=False):
    """Of a request.

    Attributes:
        headers: by name.
        content: its body.
        auth: adds what proves who asks; not to another host that it is redirected to.
        follow: redirects.
        timeout: seconds; ``None``: as usual.
    """

    headers: Mapping[str, str]
    content: bytes
    auth: httpx.Auth | None
    follow: bool
    timeout: float | None


async def resolved(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host by the resolver of the system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


@cache
def _usual_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


@attrs.define(eq=False, kw_only=True)
class Outgoing:
    """Rules for outgoing requests, and the client that keeps to them.

    As it is, every public host may be requested by ``https``: neither private addresses, nor what
    can be read on the way. It is asked again for each redirect, and connects to the addresses that
    it has checked. Close it, or use it with ``async with``.

    Attributes:
        hosts: globs of hosts that may be requested at public addresses.
        private: globs of hosts that may have private addresses, and any port; they may be
            requested without TLS.
        schemes: for all other hosts; ``http`` lets those be requested without TLS, too.
        timeout: seconds of a whole request, with its redirects and its body.
        most_bytes: of the body of an answer, before and after it is decompressed.
        most_redirects: that are followed.
        files: the folder in which ``file:`` resources are; ``None``: there are none.
        tls: says which certificates are good, and has your own; ``None``: those of certifi.
        resolve: returns the addresses of a host.
        stand_ins: origins that stand in for others, such as
            ``{"https://api.example": "http://127.0.0.1:8000"}``; they are not checked.
    """

    hosts: Sequence[str] = ("*",)
    private: Sequence[str] = ()
    schemes: Sequence[str] = ("https",)
    timeout: float = 60.0
    most_bytes: int = 8 * 1024 * 1024
    most_redirects: int = 5
    files: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    tls: ssl.SSLContext | None = None
    resolve: Callable[[str, int], Awaitable[Sequence[str]]] = resolved
    stand_ins: Mapping[str, str] = EMPTY
    tokens: Remembered = attrs.field(factory=lambda: Remembered(256), init=False, repr=False)
    resources: Remembered = attrs.field(factory=lambda: Remembered(64), init=False, repr=False)
    _connections: Connections = attrs.field(init=False, repr=False)
    _gates: tuple[asyncio.Semaphore, asyncio.Semaphore] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._gates = asyncio.Semaphore(MOST_AT_ONCE), asyncio.Semaphore(MOST_AT_ONCE)
        self._connections = Connections(
            self._check,
            self._addresses,
            self.most_bytes,
            self.tls_context,
            {origin_of(httpx.URL(each)): httpx.URL(to) for each, to in self.stand_ins.items()},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connections.aclose()

    @property
    def tls_context(self) -> ssl.SSLContext:
        """What TLS is spoken with."""
        return self.tls or _usual_tls()

    @property
    def roots(self) -> str | None:
        """The certificates of ``tls`` as PEM; ``None``: the usual ones are good."""
        if self.tls is None:
            return None
        return "".join(map(ssl.DER_cert_to_PEM_cert, self.tls.get_ca_certs(binary_form=True)))

    def is_private(self, host: str) -> bool:
        """Return whether a host may have private addresses and be reached without TLS."""
        return _matches(host, self.private)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host, if all of them may be reached.

        Raises:
            TaskError: ``authorization``: it may not be reached. ``communication``: no such host.
        """
        try:
            name = host_name(host)
        except ValueError:
            raise _refused(f"{host!r} is no name of a host") from None
        is_private = self.is_private(name)
        if not is_private and not _matches(name, self.hosts):
            raise _refused(f"the host {name!r} is not among those that are allowed")
        if not is_private and port < FIRST_FREE_PORT and port not in PORTS.values():
            raise _refused(f"port {port} is none that is allowed")
        found = [name] if is_address(name) else await self._resolved(name, port)
        if not is_private and not all(map(is_public, found)):
            raise _refused(f"the host {name!r} has an address that is not public")
        return found

    async def request(self, method: str, url: str, **options: Unpack[Options]) -> Answer:
        """Send a request to an absolute URL; return the whole answer, of any status.

        Raises:
            TaskError: ``authorization``: it is not allowed. ``communication``: there is no whole
                answer. ``timeout``: it took too long.
        """
        async with self.stream(method, url, **options) as response:
            return await Answer.of(response)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Unpack[Options]
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, and give the answer, whose body is read by its ``aiter_`` methods.

        As :meth:`request`; the time includes what is done with the answer. Those that may take
        longer than usual, such as subscriptions, keep no others waiting.

        Raises:
            TaskError: ``communication``, 503: too many of those are open already.
        """
        seconds, place = options.get("timeout") or self.timeout, "the URL"
        limit, gate = asyncio.timeout(seconds), self._gates[seconds > self.timeout]
        if seconds > self.timeout and gate.locked():
            raise TaskError.of("communication", "too many long answers are open", status=503)
        try:
            async with limit, gate:
                headers = httpx.Headers(USUAL_HEADERS)
                headers.update(options.get("headers"))
                request = _request(method, url, headers, options.get("content", b""))
                place = origin_of(request.url)
                auth, follow = options.get("auth"), options.get("follow", False)
                response = await self._sent(request, auth, follow)
                try:
                    yield response
                finally:
                    await response.aclose()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TaskError.of(
                "timeout", f"{place} has not answered within {seconds:g} seconds"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, *_CORE_ERRORS) as error:
            raise _failure(place, error) from None

    async def _sent(
        self, request: httpx.Request, auth: httpx.Auth | None, follow: bool
    ) -> httpx.Response:
        response = await self._proven(request, auth)
        redirects = 0
        while follow and response.has_redirect_location:
            redirects += 1
            await response.aclose()
            if redirects > self.most_redirects:
                raise TaskError.of("communication", f"more than {redirects - 1} redirects")
            origin, request = origin_of(request.url), _redirected(request, response)
            if origin_of(request.url) != origin:
                auth = None
            response = await self._proven(request, auth)
        return response

    async def _proven(self, request: httpx.Request, auth: httpx.Auth | None) -> httpx.Response:
        """Send a request as often as its authentication wants, and return the last answer."""
        async with aclosing((auth or httpx.Auth()).async_auth_flow(request)) as flow:
            request = await anext(flow)
            while True:
                response = await self._connections.handle_async_request(request)
                response.request = request
                try:
                    request = await flow.asend(response)
                except StopAsyncIteration:
                    return response
                except BaseException:
                    await response.aclose()
                    raise
                await response.aclose()

    def _check(self, url: httpx.URL) -> None:
        if url.scheme not in PORTS or not url.host:
            raise _refused("only http and https URLs can be requested")
        if url.userinfo:
            raise _refused("a URL must not have a user or a password; use authentication")
        host = url.raw_host.decode()
        if url.scheme not in self.schemes and not self.is_private(host):
            raise _refused(f"{url.scheme} is not allowed for {host!r}")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        places = [httpx.URL(each) for each in self.stand_ins.values()]
        if (host, port) in {(each.host, each.port or PORTS[each.scheme]) for each in places}:
            return [host]
        return await self.addresses(host, port)

    async def _resolved(self, name: str, port: int) -> Sequence[str]:
        try:
            return await self.resolve(name, port)
        except OSError:
            raise TaskError.of("communication", f"the host {name!r} was not found") from None


def outgoing_of(call: Call) -> Outgoing:
    """Return the client of a runtime.

    Raises:
        TaskError: ``configuration``: it has none.
    """
    if call.runtime.outgoing is None:
        raise TaskError.of("configuration", "this runtime makes no outgoing requests")
    return call.runtime.outgoing


_CORE_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def _request(
    method: str, url: httpx.URL | str, headers: Mapping[str, str], content: bytes
) -> httpx.Request:
    return httpx.Request(
        method, url, headers=headers, content=content or None, extensions={"timeout": TIMEOUTS}
    )


def _redirected(request: httpx.Request, response: httpx.Response) -> httpx.Request:
    """Return the request to which an answer leads; another host is not told who asks."""
    try:
        url = request.url.join(response.headers["location"])
    except httpx.InvalidURL:
        raise httpx.RemoteProtocolError("it redirects to no URL") from None
    keeps = (response.status_code, request.method) not in {(301, "POST"), (302, "POST")}
    keeps = keeps and (response.status_code != 303 or request.method == "HEAD")  # noqa: PLR2004
    is_same = origin_of(url) == origin_of(request.url)
    headers = {
        name: value
        for name, value in request.headers.items()
        if (is_same or name in KEPT_HEADERS)
        and (keeps or not name.startswith("content-"))
        and name not in {"authorization", "host"}
    }
    return _request(
        request.method if keeps else "GET", url, headers, request.content if keeps else b""
    )


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, each.lower()) for each in globs)


def _refused(text: str) -> TaskError:
    return TaskError.of("authorization", text)


def _failure(place: str, error: Exception) -> TaskError:
    if isinstance(error, httpcore.TimeoutException | httpx.TimeoutException):
        return TaskError.of("timeout", f"{place} does not take connections in time")
    if isinstance(error, httpx.InvalidURL):
        return TaskError.of("validation", "the endpoint is no URL")
    if isinstance(error, httpcore.ConnectError):
        is_tls = isinstance(error.__cause__ or error.__context__, ssl.SSLError)
        why = f"TLS: {error}" if is_tls else "it takes no connections"
        return TaskError.of("communication", f"cannot connect to {place}: {why}"[:500])
    return TaskError.of("communication", f"{place} has not answered as HTTP demands")
