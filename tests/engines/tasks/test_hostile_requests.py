"""Requests that are meant to do harm: each gets an answer, and none breaks the service."""

import json
from random import Random
from typing import Any

import httpx
import pytest

from flowstate import FakeClock
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.endpoints import ENDPOINTS
from tests.engines.tasks.mutating import JUNK, value_of
from tests.engines.tasks.service.running import document, tasks_on

ROUTES = [each for each in ENDPOINTS if each.path != "/feed"]  # That one never ends.
TEXTS = [
    "", "demo", "order", "1.0.0", "i1", "none", "0", "-1", "1" * 30, "1e9", "nan", "true", "é",
    "\0", "a/b", "..", "../../etc/passwd", "%", "%00", "%ff", "a b", "x" * 3_000, "\U0001f600",
    "'; drop table states; --", "{{7*7}}", "$where", "*", ":", ",", "a:b,c:d", "\u2028", "null",
    "demo/order", "demo/order:1.0.0", "failed", "completed", "2026-01-01T00:00:00Z", "[]", "{}",
]  # fmt: skip
KINDS = [
    "", "application/json", "application/yaml", "application/cloudevents+json", "text/plain",
    "application/cloudevents-batch+json", "application/json; charset=latin-1", 'x/y; "', "a",
]  # fmt: skip
HEADERS = [
    "Idempotency-Key", "If-None-Match", "Last-Event-ID", "ce-id", "ce-type", "ce-source", "ce-time",
    "ce-specversion", "ce-datacontenttype", "Authorization", "Accept", "Content-Encoding",
]  # fmt: skip
BODIES = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 5_000, b'{"a":' * 3_000, b"1" * 5_000, b"\0",
    b'{"definition": "demo/order"}', b'{"definition": "demo/order", "id": "i1"}', b'"\\ud800"',
    b'{"definition": "demo/order", "input": 1e999}', b'{"definition": "demo/order", "id": "/"}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}', b"a: &a [*a]",
    b"--- a\n--- b",
]  # fmt: skip
FIELDS = [
    "definition", "input", "id", "version", "labels", "key", "task", "to", "by", "why", "plan",
    "specversion", "source", "type", "data", "time", "data_base64", "since",
]  # fmt: skip


def body_of(random: Random) -> bytes:
    match random.randrange(4):
        case 0:
            return random.choice(BODIES)
        case 1:
            return json.dumps(value_of(random)).encode()
        case 2:
            text = document().replace("order", random.choice(TEXTS), 1)
            return text.encode(errors="replace")
        case _:
            names = [random.choice(FIELDS) for _ in range(random.randrange(6))]
            given = {name: random.choice([*TEXTS, *JUNK]) for name in names}
            return json.dumps({"definition": "demo/order"} | given).encode()


def request_of(random: Random, client: httpx.AsyncClient) -> httpx.Request:
    route = random.choice(ROUTES)
    path = route.path
    for name, right in {
        "{id:path}": "i1", "{namespace}": "demo", "{name}": "order", "{version}": "1.0.0"
    }.items():  # fmt: skip
        put = right if random.random() < 0.6 else random.choice(TEXTS)
        path = path.replace(name, put)
    names = [*(getattr(route.query, "__struct_fields__", ())), "limit", "after", "x", "hard"]
    query = {random.choice(names): random.choice(TEXTS) for _ in range(random.randrange(4))}
    query["timeout"] = random.choice(["0", "0.01", "-1", "x", "nan", "inf"])
    headers: dict[str, Any] = {
        random.choice(HEADERS): random.choice(TEXTS).replace("\0", "").encode()
        for _ in range(random.randrange(3))
    }
    headers["Content-Type"] = random.choice(KINDS)
    method = random.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", *[route.method] * 10])
    url = httpx.URL("http://tasks", path=path.replace("\0", "%00"), params=query)
    return client.build_request(method, url, headers=headers, content=body_of(random))


@pytest.mark.parametrize(
    ("start", "count"), [(0, 400), pytest.param(1_000_000, 20_000, marks=pytest.mark.nightly)]
)
async def test_every_request_gets_an_answer(
    start: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = set()
    async with tasks_on(clock=FakeClock()) as tasks:
        transport = httpx.ASGITransport(app(tasks), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport) as client:
            await tasks.add(document("- sleep: {wait: P1Y}"))
            await tasks.start("demo/order", id="i1")
            for seed in range(start, start + count):
                request = request_of(Random(seed), client)
                answer = await client.send(request)
                statuses.add(answer.status_code)
                assert 200 <= answer.status_code < 500, (seed, request.url, answer.text)
                if answer.status_code >= 400 and answer.status_code != 405:
                    problem = answer.json()
                    assert problem["status"] == answer.status_code, seed
                    assert "Traceback" not in answer.text
            health = await client.get("http://tasks/health")
            assert health.status_code == 200
    assert {200, 400, 404} <= statuses
    assert [each for each in caplog.records if each.exc_info] == []


@pytest.mark.parametrize("status", [-1, 0, 1, 100, 200, 204, 302, 304, 399, 600, 10**9])
async def test_an_error_of_a_document_chooses_no_status_that_is_none(status: int) -> None:
    do = f"- a: {{raise: {{error: {{type: 'https://x', status: '${{ {status} }}'}}}}}}"
    if status > 0:
        do = f"- a: {{raise: {{error: {{type: 'https://x', status: {status}}}}}}}"
    async with tasks_on(clock=FakeClock()) as tasks:
        transport = httpx.ASGITransport(app(tasks))
        async with httpx.AsyncClient(transport=transport, base_url="http://tasks") as client:
            stored = await client.post("/definitions", content=document(do))
            if stored.status_code == 422:
                return
            await client.post("/instances", json={"definition": "demo/order", "id": "i"})
            answer = await client.get("/instances/i/result", params={"timeout": 5})
            assert 400 <= answer.status_code <= 599
            assert answer.json()["type"] == "https://x"
