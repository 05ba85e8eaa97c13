"""The page on calls tells the truth: its documents are loaded and run, its programs run."""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate import Delayer, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.runtime import Runtime
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.calls.test_openapi import SWAGGER
from tests.engines.tasks.in_memory import InMemoryDocuments

pytestmark = pytest.mark.repository

PAGE = Path(__file__).parents[4] / "docs" / "engines" / "tasks" / "calls.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOSTS = ("petstore", "orders", "bank", "reports", "login")


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(PAGE.read_text()) if name == language]


def programs() -> dict[str, Any]:
    """Run the programs of the page one after the other, and return their names."""
    names: dict[str, Any] = {}
    for text in blocks("python"):
        exec(compile(text, str(PAGE), "exec"), names)  # noqa: S102 - that is the test
    return names


async def answer(request: Request) -> Response:
    path, host = request.url.path, request.headers["host"]
    if path.endswith("/token"):
        return JSONResponse({"access_token": "t", "expires_in": 60})
    if path == "/v2/swagger.json":
        paths = {"/find": SWAGGER["paths"]["/find"]}
        paths["/find"]["get"]["operationId"] = "findPetsByStatus"
        return JSONResponse({**SWAGGER, "paths": paths})
    told = {
        "asked": f"{request.method} {host}{path}?{request.url.query}",
        "as": request.headers.get("authorization", ""),
        "name": "Milou",
        "price": 7,
        "reason": "no money",
    }
    return JSONResponse(told, 402 if host == "bank.example" and request.method == "POST" else 200)


EXPECTED = {
    "order": ("statusCode", 200),
    "pay": ("why", "no money"),
    "find": ("asked", "GET petstore.example/v2/find?status=available"),
    "report": ("as", "Basic ***"),
    "book": ("booking", "blue on 01 December"),
}


@pytest.mark.parametrize("text", blocks("yaml"), ids=EXPECTED)
async def test_a_document_of_the_page_runs(text: str) -> None:
    names = programs()
    clock = FakeClock()
    secrets = type(names["secrets"])(
        {"bank": {"secret": "s"}, "reports": {"username": "ann", "password": "word"}}
    )
    async with (
        served(Starlette(routes=[Route("/{p:path}", answer, methods=["GET", "POST"])])) as origin,
        Outgoing(stand_ins={f"https://{host}.example": origin for host in HOSTS}) as outgoing,
        InProcessExpressions() as expressions,
        Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
    ):
        documents = InMemoryDocuments()
        runtime = Runtime(
            engine,
            documents,
            expressions,
            secrets=secrets,
            outgoing=outgoing,
            functions=names["functions"],
        )
        document = await load(text, runtime=runtime)
        documents.add(document)
        code = TaskCode(runtime)
        async with Kernel(engine, [code]) as kernel:
            given = {"petId": 1, "price": 3}
            await kernel.start(code, "i", TaskData(document.key, given, clock.now()), {})
            found = await kernel.result("i", timeout=1e6)
    field, value = EXPECTED[document.name]
    assert found[field] == value


def test_the_table_of_what_may_be_reached_has_the_numbers_of_the_code() -> None:
    text, usual = PAGE.read_text(), Outgoing()
    assert f"at most {usual.most_redirects}." in text
    assert f"{usual.most_bytes >> 20} MiB, before" in text
    assert f"{usual.timeout:g} seconds for the whole request" in text
    assert f"at most {usual.resources.most} of them" in text
