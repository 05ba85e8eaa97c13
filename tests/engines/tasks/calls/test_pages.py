"""The pages on protocols and on processes: their documents are loaded, and what can be is run."""

import re
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flowstate import Delayer, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.tasks.calls.asyncapi import MOST_MESSAGES
from flowstate.engines.tasks.calls.databases import Database, sql
from flowstate.engines.tasks.calls.grpc import MOST_ANSWERS
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.processes import TAIL
from flowstate.engines.tasks.calls.programs import PROGRAMS, Processes
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.calls.calling import caller
from tests.engines.tasks.calls.serving import served
from tests.servers import Postgres

pytestmark = pytest.mark.repository

PAGES = Path(__file__).parents[4] / "docs" / "engines" / "tasks"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text()
    return [block for name, block in BLOCK.findall(text) if name == language]


def documents() -> dict[str, str]:
    texts = [*blocks("protocols", "yaml"), *blocks("processes", "yaml")]
    return {re.findall(r"name: ([\w-]+), version", text)[0]: text for text in texts}


async def rpc(request: Request) -> JSONResponse:
    asked = await request.json()
    if "id" not in asked:
        return JSONResponse(None, 202)
    if asked["method"] == "add":
        return JSONResponse({"id": asked["id"], "result": sum(asked["params"].values())})
    return JSONResponse({"id": asked["id"], "result": {"asked": asked["method"]}})


async def card(_: Request) -> JSONResponse:
    return JSONResponse({"url": "https://agent.example/rpc"})


APP = Starlette(
    routes=[Route("/card.json", card), Route("/{p:path}", rpc, methods=["POST"])],
)
ALLOWED: dict[str, Any] = dict.fromkeys(("shell", "script", "container"), True)
RUNS = {
    "add": ({"b": 2}, 3),
    "ask-agent": ({"question": "?"}, {"asked": "message/send"}),
    "use-tool": ({"text": "?"}, {"asked": "tools/call"}),
    "book": ({"room": "blue", "day": "d"}, [{"room": "blue", "day": "d"}]),
    "shell": ({"text": "tea", "item": "$(x)", "name": "a b"}, "tea: $(x) for a b\n"),
    "script": ({"text": "a b a"}, {"a": 2, "b": 1}),
}


@pytest.mark.parametrize("name", documents())
async def test_a_document_of_the_pages_is_loaded_and_runs(name: str, tmp_path: Path) -> None:
    clock = FakeClock()
    database = Database(f"sqlite:///{tmp_path}/shop")
    await database.run("create table bookings (room text, day text)", {})
    async with served(APP) as origin:
        hosts = ("numbers", "agent", "tools")
        outgoing = Outgoing(stand_ins={f"https://{host}.example": origin for host in hosts})
        engine = Engine(MemoryDriver(clock), FlowRegistry(), clock=clock)
        async with (
            engine,
            Delayer(engine),
            Tasks(
                engine,
                expressions=InProcessExpressions(),
                outgoing=outgoing,
                databases={"shop": database},
                processes=Processes(**ALLOWED),
            ) as tasks,
        ):
            document, _ = await tasks.add(documents()[name])
            if name in RUNS:
                given, answer = RUNS[name]
                id = await tasks.start(f"{document.namespace}/{document.name}", given)
                assert await tasks.result(id) == answer


async def test_a_repeated_statement_of_the_recipes_changes_nothing(
    postgres: Postgres, postgres_schema: str
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create schema {postgres_schema}".encode())
    at = f"{'&' if '?' in postgres.url() else '?'}options=-c%20search_path%3D{postgres_schema}"
    database = Database(postgres.url() + at)
    first, second = blocks("protocols", "sql")
    create, insert = filter(str.strip, first.split(";"))
    await database.run(create, {})
    await database.run("create table done (key text primary key)", {})
    await database.run("create table accounts (id text, cents integer)", {})
    await database.run("insert into accounts values ('a', 100)", {})
    async with caller(databases={"shop": database}) as call:
        given: dict[str, Any] = {"account": "a", "cents": 30}
        for text in (insert, second.strip().removesuffix(";")):
            arguments = {"database": "shop", "query": text, "parameters": given}
            assert await call(sql, arguments) == {"changed": 1}
            assert await call(sql, arguments) == {"changed": 0}
    assert await database.run("select cents from accounts", {}) == [{"cents": 70}]


def test_the_pages_have_the_numbers_of_the_code() -> None:
    protocols = (PAGES / "protocols.md").read_text()
    usual, database = Processes(), Database("sqlite:///x")
    table = (PAGES / "processes.md").read_text()

    assert f"most {MOST_ANSWERS:,} messages" in protocols
    assert f"most {MOST_MESSAGES:,} messages and" in protocols
    assert f"most {database.seconds:g} seconds, {database.most_rows:,} rows" in protocols
    assert f"and {database.connections} connections" in protocols
    assert f"that a program may take | {usual.seconds:g} |" in table
    assert f"at once | {usual.most_left} |" in table
    assert f"last {TAIL} characters" in table
    own = ("shell", "javascript", "container")
    assert all(f"`{PROGRAMS[each]}`" in table for each in own)
    assert PROGRAMS["python"] == sys.executable
