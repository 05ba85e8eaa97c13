"""Clients that publish messages and subscribe to them: HTTP, WebSocket, NATS and Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import attrs

from flowstate.engines.tasks.calls.asyncapi_documents import Place
from flowstate.engines.tasks.calls.authentication import Authorization
from flowstate.engines.tasks.calls.event_streams import EVENT_STREAM, events, lines
from flowstate.engines.tasks.calls.outgoing import Outgoing, outgoing_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["CLIENTS", "Client", "Messages", "Way"]

CONNECTING = 10.0  # Seconds.
ENDING = 2.0  # Seconds.
LONGEST = 86_400.0 * 365  # Seconds of a subscription by HTTP.
PORTS = {"nats": 4222, "redis": 6379}

Messages = AsyncIterator[tuple[bytes | str, Mapping[str, str]]]
"""Payloads with their headers."""


@attrs.frozen
class Way:
    """A place, with who goes there.

    Attributes:
        place: what the document says.
        call: for which it is.
        proof: of who asks; ``None``: nothing is asked for.
    """

    place: Place
    call: Call
    proof: Authorization | None = None

    @property
    def outgoing(self) -> Outgoing:
        """The rules for outgoing requests."""
        return outgoing_of(self.call)

    def subscribe(self) -> AbstractAsyncContextManager[Messages]:
        """Give the messages that come there, from when the context is entered."""
        return CLIENTS[self.place.protocol].subscribe(self)

    async def addresses(self, port: int) -> list[str]:
        """Return where to connect to, if that is allowed.

        Raises:
            TaskError: ``authorization``.
        """
        host, outgoing = self.place.host, self.outgoing
        may_be_plain = "http" in outgoing.schemes or outgoing.is_private(host)
        if not self.place.is_secure and not may_be_plain:
            raise TaskError.of("authorization", f"{host!r} may only be reached by TLS")
        if any(each.isspace() or not each.isprintable() for each in self.place.address):
            raise TaskError.of("validation", "the address of the channel has blanks")
        return list(await outgoing.addresses(host, port))

    def url(self, scheme: str) -> str:
        """Return the URL of the channel."""
        place, port = self.place, f":{self.place.port}" if self.place.port else ""
        host = f"[{place.host}]" if ":" in place.host else place.host
        path = f"{place.path}/{quote(place.address.lstrip('/'), safe='/?=&')}".rstrip("/")
        return f"{scheme}{'s' if place.is_secure else ''}://{host}{port}{path}"


@attrs.frozen
class Client:
    """How messages are published and subscribed to.

    Attributes:
        publish: gives one message to the server.
        subscribe: gives messages from when the context is entered.
    """

    publish: Callable[[Way, bytes, Mapping[str, str]], Coroutine[Any, Any, None]]
    subscribe: Callable[[Way], AbstractAsyncContextManager[Messages]]


def _broken(error: BaseException) -> TaskError:
    return TaskError.of(
        "communication", f"the server has failed: {type(error).__name__}: {error}"[:500]
    )


async def _publish_http(way: Way, payload: bytes, headers: Mapping[str, str]) -> None:
    own = {"content-type": "application/json", "idempotency-key": way.call.key}
    answer = await way.outgoing.request(
        str(way.place.bindings.get("method", "POST")),
        way.url("http"),
        headers={**own, **headers},
        content=payload,
        auth=way.proof.auth if way.proof else None,
    )
    _check(answer.status)


@asynccontextmanager
async def _subscribe_http(way: Way) -> AsyncIterator[Messages]:
    async with way.outgoing.stream(
        "GET",
        way.url("http"),
        headers={"accept": f"{EVENT_STREAM}, application/x-ndjson"},
        auth=way.proof.auth if way.proof else None,
        timeout=LONGEST,
    ) as response:
        _check(response.status_code)
        is_events = response.headers.get("content-type", "").startswith(EVENT_STREAM)
        found = events(response) if is_events else lines(response)
        yield ((each, EMPTY) async for each in found if each)


def _check(status: int) -> None:
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        detail = f"the server has answered with {status}"
        raise TaskError.of("communication", detail, status=status)


@asynccontextmanager
async def _socket(way: Way, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    from websockets import WebSocketException  # noqa: PLC0415 - of an extra
    from websockets.asyncio.client import connect  # noqa: PLC0415

    port = way.place.port or (443 if way.place.is_secure else 80)
    (address, *_) = await way.addresses(port)
    more = {"authorization": way.proof.header} if way.proof else {}
    try:
        async with connect(
            way.url("ws"),
            host=address,
            port=port,
            additional_headers={**headers, **more},
            open_timeout=CONNECTING,
            max_size=way.outgoing.most_bytes,
            proxy=None,
            ssl=way.outgoing.tls_context if way.place.is_secure else None,
        ) as socket:
            yield socket
    except (OSError, TimeoutError, WebSocketException) as error:
        raise _broken(error) from None


async def _publish_ws(way: Way, payload: bytes, headers: Mapping[str, str]) -> None:
    async with _socket(way, headers) as socket:
        await socket.send(payload.decode())


@asynccontextmanager
async def _subscribe_ws(way: Way) -> AsyncIterator[Messages]:
    async with _socket(way, EMPTY) as socket:
        yield ((each, EMPTY) async for each in socket)


@asynccontextmanager
async def _nats(way: Way) -> AsyncIterator[Any]:
    from nats import errors  # noqa: PLC0415 - of an extra
    from nats.aio.client import Client as Connection  # noqa: PLC0415

    async def quiet(error: Exception) -> None:
        """What fails is raised where it is used."""

    port = way.place.port or PORTS["nats"]
    addresses = await way.addresses(port)
    scheme, options = "nats", dict[str, Any]()
    if way.place.is_secure:
        scheme = "tls"
        options |= {"tls": way.outgoing.tls_context, "tls_hostname": way.place.host}
    if way.proof and way.proof.username:
        options |= {"user": way.proof.username, "password": way.proof.password}
    elif way.proof:
        options["token"] = way.proof.parameter
    options |= {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
    servers = [f"{scheme}://{f'[{each}]' if ':' in each else each}:{port}" for each in addresses]
    client = Connection()
    try:
        async with asyncio.timeout(CONNECTING):
            await client.connect(servers, error_cb=quiet, **options)
        yield client
    except (OSError, TimeoutError, errors.Error) as error:
        raise _broken(error) from None
    finally:
        with contextlib.suppress(TimeoutError):  # It waits for what has failed to begin.
            async with asyncio.timeout(ENDING):
                await client.close()


async def _publish_nats(way: Way, payload: bytes, headers: Mapping[str, str]) -> None:
    async with _nats(way) as client:
        own = {"Nats-Msg-Id": way.call.key}  # By which a stream of the server tells repeated ones.
        await client.publish(way.place.address, payload, headers={**own, **headers})
        await client.flush(int(CONNECTING))


@asynccontextmanager
async def _subscribe_nats(way: Way) -> AsyncIterator[Messages]:
    async with _nats(way) as client:
        queue = str(way.place.bindings.get("queue", ""))
        subscription = await client.subscribe(way.place.address, queue=queue)
        await client.flush(int(CONNECTING))
        yield ((each.data, each.headers or EMPTY) async for each in subscription.messages)


@asynccontextmanager
async def _redis(way: Way) -> AsyncIterator[Any]:
    from redis.asyncio import Redis, RedisError  # noqa: PLC0415 - of an extra
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    place, options = way.place, dict[str, Any]()
    port = place.port or PORTS["redis"]
    (address, *_) = await way.addresses(port)
    if place.is_secure:  # The certificate tells whether it is the host that was checked.
        address, options["ssl"] = place.host, True
        options["ssl_ca_data"] = way.outgoing.roots
    if way.proof:
        options["username"] = way.proof.username or None
        options["password"] = way.proof.password or way.proof.parameter
    if place.path.strip("/").isdigit():
        options["db"] = int(place.path.strip("/"))
    try:
        async with Redis(
            host=address,
            port=port,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECTING,
            **options,
        ) as client:
            yield client
    except (OSError, TimeoutError, RedisError) as error:
        raise _broken(error) from None


async def _publish_redis(way: Way, payload: bytes, headers: Mapping[str, str]) -> None:
    if headers:
        raise TaskError.of("configuration", "messages of Redis have no headers")
    async with _redis(way) as client:
        await client.publish(way.place.address, payload)


@asynccontextmanager
async def _subscribe_redis(way: Way) -> AsyncIterator[Messages]:
    async with _redis(way) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(way.place.address)
        yield ((each["data"], EMPTY) async for each in channel.listen())


CLIENTS: Mapping[str, Client] = {
    "http": Client(_publish_http, _subscribe_http),
    "nats": Client(_publish_nats, _subscribe_nats),
    "redis": Client(_publish_redis, _subscribe_redis),
    "ws": Client(_publish_ws, _subscribe_ws),
}
"""By protocol."""
