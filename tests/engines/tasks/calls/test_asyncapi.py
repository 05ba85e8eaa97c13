"""Messages are published and gathered by each protocol, against real servers."""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import nats
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection, serve

from flowstate.engines.tasks.calls.asyncapi import asyncapi
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.errors import TaskError
from flowstate.testing.faults.ports import free_port
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import CERTIFICATE, served, trusting
from tests.engines.tasks.service.running import tasks_on
from tests.redis_servers import RedisLike

FOR_A_MOMENT: dict[str, Any] = {"amount": 10_000, "for": {"milliseconds": 500}}
NATS = Path(sys.executable).parent / "nats-server"


@attrs.frozen
class Broker:
    """A server: where it is, and how others publish to it and hear what is published."""

    url: str
    protocol: str
    publish: Callable[[list[Any]], Awaitable[None]]
    heard: Callable[[], Awaitable[tuple[str, dict[str, str]]]]
    policy: dict[str, Any] | None = None


@contextlib.contextmanager
def nats_server(*words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    port = free_port()
    words = (str(NATS), "-a", "127.0.0.1", "-p", str(port), *words)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "Server is ready" in line:
                break
        try:
            yield port, server
        finally:
            server.kill()


@pytest.fixture(scope="module")
def nats_port() -> Iterator[int]:
    with nats_server("--user", "anna", "--pass", "hush") as (port, _):
        yield port


@pytest.fixture
async def nats_broker(nats_port: int) -> AsyncIterator[Broker]:
    client = await nats.connect(f"nats://127.0.0.1:{nats_port}", user="anna", password="hush")  # noqa: S106
    heard = await client.subscribe("orders")
    await client.flush()

    async def publish(messages: list[Any]) -> None:
        for each in messages:
            await client.publish("orders", json.dumps(each).encode(), headers={"x-id": "7"})
        await client.flush()

    async def hear() -> tuple[str, dict[str, str]]:
        message = await heard.next_msg(10)
        return message.data.decode(), dict(message.headers or {})

    policy = {"basic": {"username": "anna", "password": "hush"}}
    yield Broker(f"nats://127.0.0.1:{nats_port}", "nats", publish, hear, policy)
    await client.close()


@pytest.fixture
async def redis_broker(redis_server: RedisLike) -> AsyncIterator[Broker]:
    url = redis_server.url()
    parts = urlsplit(url)
    async with Redis.from_url(url) as client, client.pubsub() as channel:
        await channel.subscribe("orders")
        await channel.get_message(timeout=10)

        async def publish(messages: list[Any]) -> None:
            for each in messages:
                await client.publish("orders", json.dumps(each))

        async def hear() -> tuple[str, dict[str, str]]:
            message = await channel.get_message(timeout=10)
            assert message is not None
            return message["data"].decode(), {}

        policy = {"basic": {"username": "default", "password": parts.password or ""}}
        yield Broker(f"redis://127.0.0.1:{parts.port}", "redis", publish, hear, policy)


@pytest.fixture
async def ws_broker() -> AsyncIterator[Broker]:
    heard = asyncio.Queue[tuple[str, dict[str, str]]]()
    sockets: list[ServerConnection] = []

    async def accept(socket: ServerConnection) -> None:
        assert socket.request is not None
        assert socket.request.path == "/orders"
        sockets.append(socket)
        async for frame in socket:
            heard.put_nowait((str(frame), dict(socket.request.headers)))

    async def publish(messages: list[Any]) -> None:
        for each in messages:
            for socket in sockets:
                await socket.send(json.dumps(each))

    async with serve(accept, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield Broker(f"ws://127.0.0.1:{port}", "ws", publish, heard.get)


@contextlib.asynccontextmanager
async def web_server(kind: str) -> AsyncIterator[Broker]:
    heard = asyncio.Queue[tuple[str, dict[str, str]]]()
    readers: list[asyncio.Queue[Any]] = []

    async def take(request: Request) -> Response:
        heard.put_nowait(((await request.body()).decode(), dict(request.headers)))
        return Response(status_code=202)

    async def give(_: Request) -> Response:
        queue = asyncio.Queue[Any]()
        readers.append(queue)

        async def written() -> AsyncIterator[str]:
            while (each := await queue.get()) is not None:
                yield f"data: {each}\n\n" if kind == "text/event-stream" else f"{each}\n"

        return StreamingResponse(written(), media_type=kind)

    async def publish(messages: list[Any]) -> None:
        for each in messages:
            for reader in readers:
                reader.put_nowait(json.dumps(each))

    routes = [Route("/orders", take, methods=["POST"]), Route("/orders", give)]
    async with served(Starlette(routes=routes)) as origin:
        yield Broker(origin, "http", publish, heard.get)
        for reader in readers:
            reader.put_nowait(None)


@pytest.fixture
async def events_broker() -> AsyncIterator[Broker]:
    async with web_server("text/event-stream") as opened:
        yield opened


@pytest.fixture
async def lines_broker() -> AsyncIterator[Broker]:
    async with web_server("application/x-ndjson") as opened:
        yield opened


@pytest.fixture(params=["events", "lines", "nats", "redis", "ws"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(f"{request.param}_broker")
    return found


def document(broker: Broker) -> dict[str, Any]:
    parts = urlsplit(broker.url)
    return {
        "asyncapi": "3.0.0",
        "servers": {"main": {"host": parts.netloc, "protocol": broker.protocol}},
        "channels": {
            "orders": {
                "address": "orders",
                "messages": {"order": {"correlationId": {"location": "$message.header#/x-id"}}},
            }
        },
        "operations": {"orders": {"action": "send", "channel": {"$ref": "#/channels/orders"}}},
    }


@pytest.fixture
async def call(broker: Broker, tmp_path: Path) -> AsyncIterator[Caller]:
    (tmp_path / "api.json").write_text(json.dumps(document(broker)))
    outgoing = {"private": ("127.0.0.1",), "files": tmp_path}
    async with caller(outgoing=outgoing, evaluates=True) as opened:
        yield opened


def asked(broker: Broker, **more: Any) -> dict[str, Any]:
    policy = {"authentication": broker.policy} if broker.policy else {}
    return {"document": {"endpoint": "file:///api.json"}, "operation": "orders", **policy, **more}


def subscribe(broker: Broker, *, filter: str = "", **consume: Any) -> dict[str, Any]:  # noqa: A002
    chosen = {"filter": filter} if filter else {}
    return asked(broker, subscription={"consume": consume, **chosen})


async def gathered(
    call: Caller, broker: Broker, arguments: dict[str, Any], messages: list[Any]
) -> list[Any]:
    """Subscribe, publish again and again until that has heard it, and return the payloads."""
    task = asyncio.create_task(call(asyncapi, arguments))
    while not task.done():
        await broker.publish(messages)
        await asyncio.wait([task], timeout=0.2)
    return [each["payload"] for each in await task]


async def test_a_message_is_published(call: Caller, broker: Broker) -> None:
    message = {"payload": {"tea": [1, None]}}
    if broker.protocol != "redis":
        message["headers"] = {"x-shop": "1"}  # type: ignore[dict-item]

    assert await call(asyncapi, asked(broker, message=message)) is None
    payload, headers = await broker.heard()
    assert json.loads(payload) == {"tea": [1, None]}
    if broker.protocol != "redis":
        assert headers["x-shop"] == "1"


async def test_so_many_messages_are_gathered(call: Caller, broker: Broker) -> None:
    found = await gathered(call, broker, subscribe(broker, amount=3), [{"n": 1}, {"n": 2}])

    assert len(found) == 3
    assert all(each in ({"n": 1}, {"n": 2}) for each in found)


async def test_messages_are_filtered(call: Caller, broker: Broker) -> None:
    arguments = subscribe(broker, amount=2, filter="${ .payload.n == 2 }")

    assert await gathered(call, broker, arguments, [{"n": 1}, {"n": 2}]) == [{"n": 2}] * 2


async def test_messages_are_gathered_while_a_condition_holds(call: Caller, broker: Broker) -> None:
    arguments = subscribe(broker, **{"while": "${ .payload.n < 3 }"}, filter="${ .payload.n > 1 }")

    found = await gathered(call, broker, arguments, [{"n": 1}, {"n": 2}, {"n": 3}])
    assert found[-1] == {"n": 3}
    assert all(each == {"n": 2} for each in found[:-1])


async def test_messages_are_gathered_until_a_condition_holds(call: Caller, broker: Broker) -> None:
    arguments = subscribe(broker, until="${ .payload.n == 3 }")

    found = await gathered(call, broker, arguments, [{"n": 1}, {"n": 3}])
    assert all(each == {"n": 1} for each in found)


async def test_a_subscription_ends_when_its_time_has_passed(call: Caller, broker: Broker) -> None:
    arguments = subscribe(broker, **FOR_A_MOMENT)

    found = await gathered(call, broker, arguments, [{"n": 1}])
    assert 0 < len(found) < 100


async def test_nothing_is_asked_for_none(call: Caller, broker: Broker) -> None:
    assert await call(asyncapi, subscribe(broker, amount=0)) == []


async def test_a_cancelled_subscription_ends(call: Caller, broker: Broker) -> None:
    task = asyncio.create_task(call(asyncapi, subscribe(broker, amount=1)))
    await asyncio.wait([task], timeout=0.2)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_hosts_that_are_allowed_are_reached(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text(json.dumps(document(broker)))
    async with caller(outgoing={"files": tmp_path}) as call:
        for arguments in (asked(broker, message={}), subscribe(broker, amount=1)):
            assert (await call.refused(asyncapi, arguments))[:2] == ("authorization", 403)


async def test_a_public_host_is_only_reached_by_tls(broker: Broker, tmp_path: Path) -> None:
    described = document(broker)
    described["servers"]["main"]["host"] = "public.example:5000"
    (tmp_path / "api.json").write_text(json.dumps(described))
    async with caller(outgoing={"files": tmp_path}) as call:
        assert (await call.refused(asyncapi, asked(broker, message={})))[:2] == (
            "authorization",
            403,
        )


@pytest.mark.parametrize("protocol", ["http", "redis", "ws"])
async def test_a_server_that_never_answers_is_not_waited_for(protocol: str, tmp_path: Path) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        url = f"{protocol}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        broker = Broker(url, protocol, None, None)  # type: ignore[arg-type]
        (tmp_path / "api.json").write_text(json.dumps(document(broker)))
        outgoing = {"private": ("127.0.0.1",), "files": tmp_path, "timeout": 0.3}
        async with caller(outgoing=outgoing) as call:
            assert (await call.refused(asyncapi, asked(broker, message={})))[0] == "timeout"


async def test_a_server_that_is_not_there_is_a_matter_of_communication(
    broker: Broker, tmp_path: Path
) -> None:
    described = document(broker)
    described["servers"]["main"]["host"] = f"127.0.0.1:{free_port()}"
    (tmp_path / "api.json").write_text(json.dumps(described))
    async with caller(outgoing={"files": tmp_path, "private": ("*",)}) as call:
        for arguments in (asked(broker, message={}), subscribe(broker, amount=1)):
            assert (await call.refused(asyncapi, arguments))[0] == "communication"


@pytest.mark.parametrize("address", ["a b", "a\r\nPUB x 1\r\nx", "a\tb"])
async def test_an_address_cannot_carry_commands(tmp_path: Path, address: str) -> None:
    described = document(Broker("nats://127.0.0.1:1", "nats", None, None))  # type: ignore[arg-type]
    described["channels"]["orders"]["address"] = address
    (tmp_path / "api.json").write_text(json.dumps(described))
    async with caller(outgoing={"files": tmp_path, "private": ("*",)}) as call:
        arguments = {"document": {"endpoint": "file:///api.json"}, "operation": "orders"}
        assert (await call.refused(asyncapi, {**arguments, "message": {}}))[0] == "validation"


async def test_headers_of_nats_come_with_a_message(nats_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text(json.dumps(document(nats_broker)))
    outgoing = {"private": ("127.0.0.1",), "files": tmp_path}
    async with caller(outgoing=outgoing) as call:
        task = asyncio.create_task(call(asyncapi, subscribe(nats_broker, amount=1)))
        while not task.done():
            await nats_broker.publish(["a"])
            await asyncio.wait([task], timeout=0.1)
        assert await task == [{"payload": "a", "headers": {"x-id": "7"}, "correlationId": "7"}]

        await call(asyncapi, asked(nats_broker, message={"payload": {}}))
        while "Nats-Msg-Id" not in (heard := (await nats_broker.heard())[1]):
            pass
        assert heard["Nats-Msg-Id"] == "i/main/call/1"


async def test_a_wrong_password_is_refused(nats_port: int, tmp_path: Path) -> None:
    broker = Broker(f"nats://127.0.0.1:{nats_port}", "nats", None, None)  # type: ignore[arg-type]
    (tmp_path / "api.json").write_text(json.dumps(document(broker)))
    policy = {"authentication": {"bearer": {"token": "wrong-token"}}}
    async with caller(outgoing={"private": ("127.0.0.1",), "files": tmp_path}) as call:
        kind, _, detail = await call.refused(asyncapi, asked(broker, message={}, **policy))
    assert kind == "communication"
    assert "wrong-token" not in detail


async def test_redis_has_no_headers(redis_broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text(json.dumps(document(redis_broker)))
    async with caller(outgoing={"private": ("127.0.0.1",), "files": tmp_path}) as call:
        arguments = asked(redis_broker, message={"payload": {}, "headers": {"a": "b"}})
        assert (await call.refused(asyncapi, arguments))[0] == "configuration"


@pytest.mark.parametrize(
    ("consume", "answer"),
    [
        ({"amount": 3}, "communication"),
        ({"until": "${ false }"}, [1, "two"]),
        ({"while": "${ true }"}, [1, "two"]),
    ],
)
async def test_a_connection_that_ends_early_is_told(
    tmp_path: Path, consume: dict[str, Any], answer: Any
) -> None:
    async def accept(socket: ServerConnection) -> None:
        await socket.send("1")
        await socket.send(b"two")

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(accept, "127.0.0.1", 0))
        port = next(iter(server.sockets)).getsockname()[1]
        broker = Broker(f"ws://127.0.0.1:{port}", "ws", None, None)  # type: ignore[arg-type]
        (tmp_path / "api.json").write_text(json.dumps(document(broker)))
        outgoing = {"private": ("127.0.0.1",), "files": tmp_path}
        call = await stack.enter_async_context(caller(outgoing=outgoing, evaluates=True))
        arguments = subscribe(broker, **consume)
        if isinstance(answer, str):
            assert (await call.refused(asyncapi, arguments))[0] == answer
        else:
            assert [each["payload"] for each in await call(asyncapi, arguments)] == answer


async def test_a_broker_that_dies_ends_a_subscription(tmp_path: Path) -> None:
    with nats_server() as (port, server):
        broker = Broker(f"nats://127.0.0.1:{port}", "nats", None, None)  # type: ignore[arg-type]
        (tmp_path / "api.json").write_text(json.dumps(document(broker)))
        async with caller(outgoing={"private": ("127.0.0.1",), "files": tmp_path}) as call:
            task = asyncio.create_task(call.refused(asyncapi, subscribe(broker, amount=1)))
            await asyncio.wait([task], timeout=0.5)
            server.kill()
            async with asyncio.timeout(20):
                assert (await task)[0] == "communication"


DOCUMENT = """
document: {dsl: 1.0.3, namespace: demo, name: hear, version: 1.0.0}
do:
  - hear:
      call: asyncapi
      with:
        document: {endpoint: "file:///api.json"}
        operation: orders
        subscription:
          filter: ${ .payload.shop == $workflow.input.shop }
          consume: {amount: 2, for: {seconds: 20}}
          foreach:
            item: order
            at: index
            do:
              - note:
                  set: {text: '${ "\\($index): \\($order.payload.item)" }'}
            output: {as: .text}
            export: {as: '$context + {last: $order.payload.item}'}
  - end:
      set: {notes: '${ . }', last: '${ $context.last }'}
"""


async def test_a_document_takes_messages_one_after_the_other(tmp_path: Path) -> None:
    items = [("b", "no"), ("a", "tea"), ("b", "no"), ("a", "milk"), ("a", "more")]

    async def give(_: Request) -> Response:
        texts = [json.dumps({"shop": shop, "item": item}) for shop, item in items]
        return Response("\n".join(texts), media_type="application/x-ndjson")

    async with served(Starlette(routes=[Route("/orders", give)])) as origin:
        broker = Broker(origin, "http", None, None)  # type: ignore[arg-type]
        (tmp_path / "api.json").write_text(json.dumps(document(broker)))
        outgoing = Outgoing(private=["127.0.0.1"], files=tmp_path)
        async with tasks_on(outgoing=outgoing) as tasks:
            await tasks.add(DOCUMENT)
            id = await tasks.start("demo/hear", {"shop": "a"})

            answer = {"notes": ["0: tea", "1: milk"], "last": "milk"}
            assert await tasks.result(id) == answer


LIVE = """
document: {dsl: 1.0.3, namespace: demo, name: follow, version: 1.0.0}
do:
  - begin: {set: {items: []}, export: {as: .}}
  - follow:
      call: asyncapi
      with:
        document: {endpoint: "file:///api.json"}
        operation: orders
        subscription:
          consume: CONSUME
          foreach:
            item: order
            do:
              - tell: {emit: {event: {with: {type: heard, data: '${ $order.payload }'}}}}
            output: {as: .data}
            export: {as: '$context + {items: ($context.items + [$order.payload])}'}
"""


@pytest.mark.parametrize(
    ("consume", "heard"),
    [
        ({"until": "${ ($context.items | length) == 2 }"}, [1, 2]),
        ({"while": "${ ($context.items | length) < 2 }"}, [1, 2]),
        ({"amount": 3}, [1, 2, 3]),
        ({"until": "${ .payload == 4 }"}, [1, 2, 3]),
        ({"amount": 9, "for": {"milliseconds": 1500}}, [1, 2, 3, 4]),
    ],
)
async def test_each_message_is_worked_off_before_the_next_one_is_looked_at(
    tmp_path: Path, consume: dict[str, Any], heard: list[int]
) -> None:
    worked_off = asyncio.Queue[int]()

    async def written() -> AsyncIterator[str]:
        for n in range(1, 5):
            yield f"{n}\n"
            if n <= len(heard):
                assert await worked_off.get() == n
        await asyncio.Event().wait()

    async def give(_: Request) -> Response:
        return StreamingResponse(written(), media_type="application/x-ndjson")

    async with served(Starlette(routes=[Route("/orders", give)])) as origin:
        (tmp_path / "api.json").write_text(
            json.dumps(document(Broker(origin, "http", None, None)))  # type: ignore[arg-type]
        )
        outgoing = Outgoing(private=["127.0.0.1"], files=tmp_path)
        async with (
            tasks_on(outgoing=outgoing) as tasks,
            tasks.engine.watch(labels={"event": "CloudEvent"}) as events,
        ):
            await tasks.add(LIVE.replace("CONSUME", json.dumps(consume)))
            id = await tasks.start("demo/follow")
            for n in heard:
                while (await anext(events)).get(dict[str, Any], "event")["data"] != n:
                    pass  # Each event has two revisions.
                worked_off.put_nowait(n)

            assert await tasks.result(id) == heard
            assert not tasks.runtime.subscriptions._live


async def tls_call(
    tmp_path: Path, port: int, protocol: str, *, policy: Any = None, trusts: bool = True
) -> Any:
    """Publish a message by TLS; return ``None``, or the kind of the error."""
    described = document(Broker(f"x://localhost:{port}", protocol, None, None))  # type: ignore[arg-type]
    if protocol == "nats":
        described["servers"]["main"]["host"] = f"tls://localhost:{port}"
    (tmp_path / "api.json").write_text(json.dumps(described))
    rules: dict[str, Any] = {"private": ("localhost",), "files": tmp_path}
    async with caller(outgoing={**rules, **({"tls": trusting()} if trusts else {})}) as call:
        arguments: dict[str, Any] = {"document": {"endpoint": "file:///api.json"}}
        arguments |= {"operation": "orders", "authentication": policy}
        try:
            return await call(asyncapi, {**arguments, "message": {"payload": 1}})
        except TaskError as error:
            return error.type.rpartition("/")[2]


async def test_wss_is_checked(tmp_path: Path) -> None:
    async def accept(socket: ServerConnection) -> None:
        await socket.wait_closed()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with serve(accept, "127.0.0.1", 0, ssl=context) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        assert await tls_call(tmp_path, port, "wss") is None
        assert await tls_call(tmp_path, port, "wss", trusts=False) == "communication"


async def test_nats_by_tls_is_checked(tmp_path: Path) -> None:
    with nats_server("--tls", f"--tlscert={CERTIFICATE}", f"--tlskey={CERTIFICATE}") as (port, _):
        assert await tls_call(tmp_path, port, "nats") is None
        assert await tls_call(tmp_path, port, "nats", trusts=False) == "communication"


async def test_rediss_is_checked(tmp_path: Path, redis_server: RedisLike) -> None:
    """No server of the tests speaks TLS, so it ends in front of one."""
    parts = urlsplit(redis_server.url())

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(copied(reader, outer), copied(inner, writer))

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    policy = {"basic": {"username": "default", "password": parts.password or ""}}
    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        assert await tls_call(tmp_path, port, "rediss", policy=policy) is None
        failed = await tls_call(tmp_path, port, "rediss", policy=policy, trusts=False)
        assert failed == "communication"
