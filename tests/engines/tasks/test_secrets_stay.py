"""A secret is nowhere that the service shows, whatever a server does with it."""

import json
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate import FakeClock
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.running.lifecycle import Trails, lifecycle_event
from flowstate.engines.tasks.service.app import app
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.service.running import document, tasks_on

KEY = 'k3y "w\\ith/ ö&+dd signs'
SECRETS = {"key": KEY, "login": {"username": "anna", "password": "p4ssw0rd-of-anna"}}
FORMS = [KEY, quote(KEY), quote(KEY, safe=""), json.dumps(KEY)[1:-1], "p4ssw0rd-of-anna"]
FORMS += [json.dumps(KEY, ensure_ascii=False)[1:-1], b64encode(KEY.encode()).decode()]
FORMS += [b64encode(b"anna:p4ssw0rd-of-anna").decode()]

BEARER = "bearer: {token: '${ $secrets.login.password }'}"
CALLS = {
    "header": "headers: {x-key: '${ $secrets.login.password }'}",
    "query": "query: {key: '${ $secrets.key }'}",
    "body": "body: {inner: ['${ $secrets.key }']}",
    "nothing there": "headers: {a: '${ $secrets.login.no.x[0] }', b: '${ $secrets.key + 1 }'}",
    "failing": "body: '${ $secrets.key | error }'",
    "indexed": "body: '${ $secrets.key[0] }'",
}


async def echo(request: Request) -> Response:
    body = (await request.body()).decode()
    request.app.state.got.append(f"{request.headers} {request.url} {body}")
    told = {"url": str(request.url), "headers": dict(request.headers), "body": body}
    return JSONResponse(told, int(request.path_params["status"]), headers={"x-url": "a"})


def text_of(call: str, uri: str, policy: str) -> str:
    return f"""- condition:
    try: [{{fails: {{if: '($secrets.key | error) == 1', set: {{a: 1}}}}}}]
    catch: {{do: [{{go-on: {{set: {{a: 1}}}}}}]}}
- ask:
    if: ($secrets.key | length) > 0
    try:
      - call:
          call: http
          with:
            method: post
            endpoint: {{uri: '{uri}', authentication: {{{policy}}}}}
            output: response
            {call}
    catch: {{as: problem, do: [{{keep: {{set: {{problem: '${{ $problem }}'}}}}}}]}}
- sleep: {{wait: PT1S}}
use: {{secrets: [key, login]}}
"""


@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize("name", CALLS)
async def test_no_answer_of_the_service_tells_a_secret(
    name: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Starlette(routes=[Route("/{status}", echo, methods=["POST"])])
    server.state.got = []
    options: dict[str, Any] = {"secrets": MappedSecrets(SECRETS), "clock": FakeClock()}
    async with (
        served(server) as origin,
        tasks_on(outgoing=Outgoing(private=["127.0.0.1"]), **options) as tasks,
        httpx.AsyncClient(transport=httpx.ASGITransport(app(tasks)), base_url="http://t") as client,
    ):
        policy = "basic: {use: login}" if status == 404 else BEARER
        text = document(text_of(CALLS[name], f"{origin}/{status}", policy))
        assert (await client.post("/definitions", content=text)).status_code == 201
        await client.post("/instances", json={"definition": "demo/order", "id": "i"})
        paths = ["/result?timeout=10", "", "/history"]
        shown = [(await client.get(f"/instances/i{path}")).text for path in paths]
        shown += [(await client.get(path)).text for path in ("/instances", "/metrics")]
        trails = Trails()
        async for state in tasks.engine.history("i"):
            shown.append(repr([bytes(each) for each in state.values.values()]))
            shown += [
                repr(lifecycle_event(state, number, happened))
                for number, happened in trails.read(state)
            ]
        shown += [f"{each.getMessage()} {each.exc_info}" for each in caplog.records]
    assert '"phase":"' in shown[1]
    sent = " ".join(server.state.got)
    assert any(form in sent for form in FORMS) is (name in {"header", "query", "body"})
    found = [(form, text) for form in FORMS for text in shown if form in text]
    assert found == []
