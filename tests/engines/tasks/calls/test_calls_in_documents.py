"""Calls as documents make them: caught, tried again, timed out, of functions and catalogs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate import FakeClock, SystemClock
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.tasks.calls.functions import typed
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.runtime import Call
from flowstate.recovery import Recoverer
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.running.driving import Running, document, running

SITE = "https://api.example"


@attrs.define
class Site:
    """Answers with what comes next, and keeps what was asked."""

    answers: list[int] = attrs.field(factory=list)
    content: bytes | None = None
    keys: list[str | None] = attrs.field(factory=list)
    hangs: bool = False
    asked: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def answer(self, request: Request) -> Response:
        self.keys.append(request.headers.get("idempotency-key"))
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        status = self.answers.pop(0) if self.answers else 200
        if self.content is not None:
            return Response(self.content, status, media_type="application/json")
        told = {"path": request.url.path, "body": (await request.body()).decode()}
        return JSONResponse(told, status)


@contextlib.asynccontextmanager
async def open_site(
    functions: Any = (), *, clock: Any = None, files: Path | None = None, **more: Any
) -> AsyncIterator[tuple[Site, Running]]:
    site = Site()
    app = Starlette(routes=[Route("/{path:path}", site.answer, methods=["GET", "POST"])])
    async with (
        served(app) as origin,
        Outgoing(stand_ins={SITE: origin}, files=files) as outgoing,
        running(dict(functions), clock=clock, outgoing=outgoing, **more) as tasks,
    ):
        yield site, tasks


async def test_a_call_that_is_tried_again_has_the_same_key() -> None:
    async with open_site() as (site, tasks):
        site.answers = [503, 500]
        found = await tasks.run(
            """
            do:
              - order:
                  try:
                    - post:
                        call: http
                        with: {method: post, endpoint: 'https://api.example/{id}', body: {a: 1}}
                  catch:
                    retry: {delay: {seconds: 1}, limit: {attempt: {count: 3}}}
            """,
            {"id": 7},
        )
        assert found == {"path": "/7", "body": '{"a":1}'}
        assert len(site.keys) == 3
        assert len(set(site.keys)) == 1


ORDER = """
do:
  - order:
      call: http
      with: {method: post, endpoint: 'https://api.example/order'}
"""


async def test_a_call_that_a_dead_process_has_begun_is_made_again_with_the_same_key() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with open_site(clock=clock, driver=driver) as (first, tasks):
        first.hangs = True
        tasks.kernel.engine._shutdown_timeout = 0.0
        await tasks.start(ORDER)
        async with asyncio.timeout(20):
            await first.asked.wait()
    async with open_site(clock=clock, driver=driver) as (second, tasks):
        tasks.documents.add(document(ORDER))
        async with Recoverer(tasks.kernel.engine):
            found = await tasks.kernel.result("i", timeout=1e6)
    assert found["path"] == "/order"
    assert first.keys == second.keys


async def test_each_pass_of_a_loop_has_a_key_of_its_own() -> None:
    async with open_site() as (site, tasks):
        await tasks.run(
            """
            do:
              - all:
                  for: {in: '[1, 2, 3]'}
                  do:
                    - post:
                        call: http
                        with: {method: post, endpoint: 'https://api.example/'}
            """
        )
        assert len(set(site.keys)) == 3


@pytest.mark.parametrize("status", [401, 404, 503])
async def test_an_error_is_caught_by_its_status(status: int) -> None:
    async with open_site() as (site, tasks):
        site.answers = [status]
        found = await tasks.run(
            f"""
            do:
              - ask:
                  try:
                    - get:
                        call: http
                        with: {{method: get, endpoint: 'https://api.example/pet/{{name}}'}}
                  catch:
                    errors:
                      with:
                        type: https://serverlessworkflow.io/spec/1.0.0/errors/communication
                        status: {status}
                    as: problem
                    do:
                      - keep: {{set: {{problem: '${{ $problem }}'}}}}
            """,
            {"name": "Milou"},
        )
    assert found["problem"]["status"] == status
    assert found["problem"]["instance"] == "/do/0/ask/try/0/get"
    assert found["problem"]["response"]["content"]["path"] == "/pet/Milou"


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "content",
    [
        b'{"a": "\\u0000", "\\u0000": 1}',
        b'"' + b"\\u0001" * 600 + b'"',
        b'"' + b"\\u0001" * 1_300 + b'"',
        b"[" * 150 + b"]" * 150,
        b"[" * 900 + b"]" * 900,
        b"[123456789012345678901234567890, 1e300, -0.0]",
        b'"' + b"x" * 4_094 + b'"',
    ],
)
async def test_no_answer_keeps_a_document_from_going_on(content: bytes, status: int) -> None:
    async with open_site() as (site, tasks):
        site.answers, site.content = [status], content
        found = await tasks.run(
            """
            do:
              - ask:
                  try:
                    - get:
                        call: http
                        with: {method: get, endpoint: 'https://api.example/'}
                  catch: {as: problem, do: [{keep: {set: {status: '${ $problem.status }'}}}]}
              - done: {set: {ended: true, was: '${ .status? }'}}
            """
        )
    assert found["ended"] is True
    assert status == 200 or found["was"] == 400


async def test_a_call_that_hangs_ends_when_the_time_of_its_task_is_over() -> None:
    async with open_site(clock=SystemClock()) as (site, tasks):
        site.hangs = True
        error = await tasks.fails(
            """
            do:
              - ask:
                  call: http
                  with: {method: get, endpoint: 'https://api.example/'}
                  timeout: {after: {milliseconds: 100}}
            """
        )
    assert (error.type.rpartition("/")[2], error.status) == ("timeout", 408)


async def test_a_host_that_is_not_allowed_is_an_error_of_the_task() -> None:
    async with open_site() as (_, tasks):
        error = await tasks.fails(
            """
            do:
              - ask:
                  call: http
                  with: {method: get, endpoint: 'https://169.254.169.254/latest/meta-data'}
            """
        )
    assert (error.type.rpartition("/")[2], error.status) == ("authorization", 403)
    assert error.instance == "/do/0/ask"


async def test_an_expression_in_an_answer_is_not_evaluated_when_it_is_sent_on() -> None:
    async with open_site() as (_, tasks):
        found = await tasks.run(
            """
            do:
              - post:
                  call: http
                  with:
                    method: post
                    endpoint: https://api.example/
                    body: ${ .text }
              - again:
                  call: http
                  with:
                    method: post
                    endpoint: ${ "https://api.example/" + (.body | @uri) }
                    body: ${ .body }
            """,
            {"text": "${ $workflow.input } {text}"},
        )
    assert found["body"] == "${ $workflow.input } {text}"


def write(folder: Path, name: str, text: str) -> None:
    place = folder / "functions" / name / "1.0.0"
    place.mkdir(parents=True)
    (place / "function.yaml").write_text(text)


FUNCTIONS: list[tuple[str, str]] = [
    ("own", ""),
    ("mine", "use: {functions: {mine: {call: own, with: {text: '${ .text }'}}}}"),
    ("say:1.0.0@shared", "use: {catalogs: {shared: {endpoint: 'file://.'}}}"),
    ("say:1.0.0@default", ""),
    ("own:3.0.0@default", ""),
    ("file://functions/say@1.0.0", ""),
]


@pytest.mark.parametrize(("name", "use"), FUNCTIONS)
async def test_a_function_is_called_wherever_it_is(name: str, use: str, tmp_path: Path) -> None:
    def own(text: str) -> dict[str, str]:
        return {"said": text}

    write(tmp_path, "say", "call: own\nwith:\n  text: ${ .text }\n")
    options: dict[str, Any] = {"files": tmp_path, "catalog": "file://."}
    async with open_site({"own": typed(own)}, **options) as (_, tasks):
        found = await tasks.run(
            f"""
            {use}
            do:
              - say: {{call: '{name}', with: {{text: '${{ .name }}'}}}}
            """,
            {"name": "anna"},
        )
    assert found == {"said": "anna"}


async def test_a_typed_function_is_tried_again_like_any_call() -> None:
    keys, fails = [], [True, True, False]

    async def charge(cents: int, *, call: Call) -> int:
        keys.append(call.key)
        if fails.pop(0):
            raise ConnectionError("the bank is closed")
        return cents * 2

    async with open_site({"charge": typed(charge)}) as (_, tasks):
        found = await tasks.run(
            """
            do:
              - charge:
                  try:
                    - inner: {call: charge, with: {cents: '${ .cents }'}}
                  catch: {retry: {delay: PT1S, limit: {attempt: {count: 5}}}}
            """,
            {"cents": 21},
        )
    assert found == 42
    assert (len(keys), len(set(keys))) == (3, 1)
