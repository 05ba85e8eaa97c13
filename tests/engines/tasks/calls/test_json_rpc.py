"""JSON-RPC, agents and MCP against real servers: answers, streams, errors, sessions, programs."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate.engines.tasks.calls.a2a import a2a
from flowstate.engines.tasks.calls.json_rpc import rpc
from flowstate.engines.tasks.calls.mcp import mcp
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import served

STREAM = "text/event-stream"


@attrs.define
class Peer:
    """A server that answers what it is told to, and notes what it is asked."""

    answers: dict[str, Any] = attrs.field(factory=dict)
    asked: list[Any] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    card: dict[str, Any] = attrs.field(factory=dict)
    session: str = ""
    origin: str = ""

    async def answer(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        if request.method == "DELETE":
            self.asked.append("the session ends")
            return Response(status_code=204)
        message = await request.json()
        self.asked.append(message)
        if "id" not in message:
            return Response(status_code=202)
        answer = self.answers.get(message["method"])
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, list):  # A stream of events.
            texts = [json.dumps(each).replace('"ID"', f'"{message["id"]}"') for each in answer]
            return Response("".join(f"data: {text}\r\n\r\n" for text in texts), media_type=STREAM)
        headers = {"mcp-session-id": self.session} if self.session else {}
        body = {"jsonrpc": "2.0", "id": message["id"], **(answer or {"result": None})}
        return JSONResponse(body, headers=headers)

    async def give_card(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return JSONResponse(self.card)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    methods = ["POST", "DELETE"]
    app = Starlette(
        routes=[Route("/rpc", made.answer, methods=methods), Route("/card", made.give_card)]
    )
    async with served(app) as origin:
        made.origin = origin
        yield made


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    async with caller(processes=Processes(mcp=True)) as opened:
        yield opened


def ask(peer: Peer, method: str = "add", **more: Any) -> dict[str, Any]:
    return {"endpoint": f"{peer.origin}/rpc", "method": method, **more}


async def test_a_method_is_called(call: Caller, peer: Peer) -> None:
    peer.answers["add"] = {"result": {"sum": 3}}

    assert await call(rpc, ask(peer, parameters=[1, 2], headers={"x-shop": "1"})) == {"sum": 3}
    assert peer.asked == [
        {"jsonrpc": "2.0", "id": "i/main/call/1", "method": "add", "params": [1, 2]}
    ]
    assert peer.headers[0]["x-shop"] == "1"


async def test_parameters_may_be_left_out(call: Caller, peer: Peer) -> None:
    assert await call(rpc, ask(peer)) is None
    assert "params" not in peer.asked[0]


async def test_an_error_has_its_code_and_data(call: Caller, peer: Peer) -> None:
    peer.answers["add"] = {"error": {"code": -32602, "message": "too few", "data": [1]}}

    with pytest.raises(TaskError, match="runtime 500: Runtime error: too few") as raised:
        await call(rpc, ask(peer))
    assert raised.value.extra == {"code": -32602, "data": [1]}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Response(status_code=503), 503),
        (Response(status_code=302, headers={"location": "/rpc"}), 302),
        (Response("no json", media_type="application/json"), 500),
        (Response("[1]", media_type="application/json"), 500),
        (Response("[" * 100_000, media_type="application/json"), 500),
        (Response("", media_type="application/json"), 500),
        (JSONResponse({"jsonrpc": "2.0", "id": "another", "result": 1}), 500),
        (JSONResponse({"jsonrpc": "2.0", "id": "i/main/call/1"}), 500),
        (Response("data: {}\n\n", media_type=STREAM), 500),
    ],
)
async def test_what_is_no_answer_is_an_error(
    call: Caller, peer: Peer, answer: Response, status: int
) -> None:
    peer.answers["add"] = answer

    assert (await call.refused(rpc, ask(peer)))[:2] == ("communication", status)


async def test_an_answer_within_a_stream_is_found(call: Caller, peer: Peer) -> None:
    notice = {"jsonrpc": "2.0", "method": "progress", "params": {"at": "1\u2028\u0085"}}
    peer.answers["add"] = [notice, {"id": "other", "result": 1}, {"id": "ID", "result": 2}]

    assert await call(rpc, ask(peer)) == 2


async def test_private_hosts_are_refused(peer: Peer) -> None:
    async with caller(outgoing={}) as call:
        assert (await call.refused(rpc, ask(peer)))[:2] == ("authorization", 403)
        server = {"server": f"{peer.origin}/rpc", "method": "tasks/get"}
        assert (await call.refused(a2a, server))[:2] == ("authorization", 403)
        assert (await call.refused(mcp, over_http(peer)))[:2] == ("authorization", 403)
    assert peer.asked == []


def say(text: str) -> dict[str, Any]:
    return {"message": {"parts": [{"kind": "text", "text": text}]}}


async def test_a_message_to_an_agent_is_completed(call: Caller, peer: Peer) -> None:
    peer.answers["message/send"] = {"result": {"kind": "task", "id": "t"}}
    arguments = {
        "method": "message/send",
        "server": {"uri": f"{peer.origin}/rpc"},
        "parameters": say("hello"),
    }

    for _ in range(2):
        assert await call(a2a, arguments) == {"kind": "task", "id": "t"}
    first, second = (each["params"]["message"] for each in peer.asked)
    assert first == second
    assert first["role"] == "user"
    assert first["kind"] == "message"
    assert len(first["messageId"]) == 36


async def test_what_a_message_says_of_itself_stays(call: Caller, peer: Peer) -> None:
    message = {"messageId": "m", "role": "agent", "parts": []}
    arguments = {"method": "message/send", "server": f"{peer.origin}/rpc"}
    await call(a2a, {**arguments, "parameters": {"message": message}})

    assert peer.asked[0]["params"]["message"] == {**message, "kind": "message"}


@pytest.mark.parametrize("method", ["message/stream", "tasks/resubscribe"])
async def test_a_stream_of_an_agent_is_an_array(call: Caller, peer: Peer, method: str) -> None:
    peer.answers[method] = [{"id": "ID", "result": {"n": n}} for n in range(3)]

    arguments = {"method": method, "server": f"{peer.origin}/rpc", "parameters": {"id": "t"}}
    assert await call(a2a, arguments) == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_an_error_within_a_stream_is_raised(call: Caller, peer: Peer) -> None:
    peer.answers["message/stream"] = [
        {"id": "ID", "result": 1},
        {"id": "ID", "error": {"code": -32001, "message": "no such task"}},
    ]
    arguments = {"method": "message/stream", "server": f"{peer.origin}/rpc"}
    assert await call.refused(a2a, arguments) == ("runtime", 500, "no such task")


@pytest.mark.parametrize(
    "card",
    [
        {"url": "{}"},
        {"url": "{}", "preferredTransport": "JSONRPC"},
        {
            "url": "http://127.0.0.1:1",
            "preferredTransport": "GRPC",
            "additionalInterfaces": [{"url": "{}", "transport": "JSONRPC"}],
        },
        {"supportedInterfaces": [{"url": "{}", "protocolBinding": "JSONRPC"}]},
    ],
)
async def test_an_agent_is_found_by_its_card(
    call: Caller, peer: Peer, card: dict[str, Any]
) -> None:
    peer.card = json.loads(json.dumps(card).replace("{}", f"{peer.origin}/rpc"))
    card_at = {"uri": f"{peer.origin}/card", "authentication": {"bearer": {"token": "hush"}}}

    assert await call(a2a, {"method": "tasks/list", "agentCard": {"endpoint": card_at}}) is None
    assert [each["authorization"] for each in peer.headers] == ["Bearer hush"] * 2


async def test_another_host_is_not_told_who_asks(call: Caller, peer: Peer) -> None:
    async with served(Starlette(routes=[Route("/rpc", peer.answer, methods=["POST"])])) as other:
        peer.card = {"url": f"{other}/rpc"}
        card_at = {"uri": f"{peer.origin}/card", "authentication": {"bearer": {"token": "hush"}}}
        await call(a2a, {"method": "tasks/list", "agentCard": {"endpoint": card_at}})

    assert ["authorization" in each for each in peer.headers] == [True, False]


@pytest.mark.parametrize("card", [{}, {"url": "x", "preferredTransport": "GRPC"}, [1]])
async def test_a_card_without_a_place_is_refused(call: Caller, peer: Peer, card: Any) -> None:
    peer.card = card
    arguments = {"method": "tasks/list", "agentCard": {"endpoint": f"{peer.origin}/card"}}
    assert (await call.refused(a2a, arguments))[0] == "configuration"


def over_http(peer: Peer, method: str = "tools/call", **more: Any) -> dict[str, Any]:
    http = {"endpoint": f"{peer.origin}/rpc", "headers": {"x-shop": "1"}}
    return {"method": method, "transport": {"http": http}, **more}


async def test_a_tool_is_called_in_a_session(call: Caller, peer: Peer) -> None:
    peer.session = "s-1"
    peer.answers["initialize"] = {"result": {"protocolVersion": "2025-03-26"}}
    peer.answers["tools/call"] = [{"id": "ID", "result": {"content": []}}]

    parameters = {"name": "t", "arguments": {"a": 1}}
    client = {"name": "mine", "version": "2"}
    arguments = over_http(peer, parameters=parameters, client=client)
    assert await call(mcp, arguments) == {"content": []}

    hello, told, asked, ended = peer.asked
    assert hello["method"] == "initialize"
    assert hello["params"] == {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": client,
    }
    assert told == {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (asked["method"], asked["params"]) == ("tools/call", parameters)
    assert ended == "the session ends"
    assert [each.get("mcp-session-id") for each in peer.headers] == [None, "s-1", "s-1", "s-1"]
    assert peer.headers[2]["mcp-protocol-version"] == "2025-03-26"
    assert peer.headers[2]["x-shop"] == "1"


async def test_a_server_without_sessions_is_left_alone(call: Caller, peer: Peer) -> None:
    await call(mcp, over_http(peer, "tools/list"))

    assert len(peer.asked) == 3


async def test_a_failure_of_mcp_is_raised_and_the_session_ended(call: Caller, peer: Peer) -> None:
    peer.session = "s-1"
    peer.answers["tools/call"] = {"error": {"code": -32602, "message": "no such tool"}}

    assert await call.refused(mcp, over_http(peer)) == ("runtime", 500, "no such tool")
    assert peer.asked[-1] == "the session ends"


# A server over standard streams, which reads its messages from a script.
PROGRAM = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message: continue
    if message["method"] == "tools/list":
        for text in sys.argv[1:]: print(text.replace("ID", message["id"]), flush=True)
        if not sys.argv[1:]: sys.exit(3)
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}), flush=True)
"""


def as_program(*lines: str, **more: Any) -> dict[str, Any]:
    stdio = {"command": sys.executable, "arguments": ["-c", PROGRAM, *lines]}
    return {"method": "tools/list", "transport": {"stdio": stdio}, **more}


ANSWER = '{"jsonrpc": "2.0", "id": "ID", "result": {"tools": []}}'


async def test_a_program_is_asked(call: Caller) -> None:
    notice = '{"jsonrpc": "2.0", "method": "notifications/message"}'
    assert await call(mcp, as_program(notice, ANSWER)) == {"tools": []}


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        ([], f"{sys.executable} has ended"),
        (["no json"], "the server has answered with what is no JSON-RPC"),
        (["x" * 100_000], f"{sys.executable} has ended, or says too much"),
    ],
)
async def test_a_program_that_does_not_answer_is_an_error(lines: list[str], detail: str) -> None:
    async with caller(processes=Processes(mcp=True, most_bytes=50_000)) as call:
        assert await call.refused(mcp, as_program(*lines)) == ("communication", 500, detail)


async def test_a_program_that_is_silent_is_killed(call: Caller, tmp_path: Path) -> None:
    arguments = as_program(json.dumps({"id": "another"}), timeout={"milliseconds": 500})

    assert await call.refused(mcp, arguments) == ("timeout", 408, "no answer within 0.5 s")


async def test_a_program_is_switched_off_at_first() -> None:
    async with caller() as call:
        assert await call.refused(mcp, as_program(ANSWER)) == (
            "authorization",
            403,
            "mcp is switched off in this runtime",
        )


async def test_a_silent_server_takes_no_longer_than_it_may(call: Caller) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport = {"http": {"endpoint": f"http://127.0.0.1:{port}/"}}
        arguments = {"method": "tools/list", "transport": transport, "timeout": "PT0.3S"}
        assert (await call.refused(mcp, arguments))[0] == "timeout"
