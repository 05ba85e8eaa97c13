"""The pages tell the truth: their code runs, their links lead somewhere, their names exist.

Python blocks of a page run one after the other in one namespace; ``await`` may stand at the top
level, as in ``python -m asyncio``. A page that reads ``DATABASE_URL`` finds an empty Postgres
database there, and one that reads ``REDIS_URL`` an empty Redis database. A comment on the line
before a block can say more:

- ``<!-- alone -->``: the block starts with a new namespace.
- ``<!-- from PATH -->``: the block is part of that file, which is tested elsewhere.
- ``<!-- pytest SELECTION -->``: the block is a test file; the selected tests in it pass.
- ``<!-- file NAME -->``: the block is a file of that name, for blocks that are run.
- ``<!-- run -->``, ``<!-- run killed -->``: the shell runs the block; it succeeds, or is killed.
- ``<!-- prints -->``: the text block is what the block before it prints.

Blocks of ``py`` are programs for other libraries, which are not executed.
"""

import ast
import asyncio
import builtins
import contextlib
import importlib
import inspect
import io
import itertools
import linecache
import os
import pkgutil
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from msgspec import Struct
from psycopg.sql import SQL, Identifier
from redis import Redis

import flowstate
from flowstate import recovery
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases import ALL
from tests.redis_servers import RedisLike
from tests.servers import Postgres

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / "docs", ROOT / "docs" / "engines", ROOT / "docs" / "engines" / "tasks"]
PAGES = [ROOT / "README.md", *(page for each in FOLDERS for page in sorted(each.glob("*.md")))]
FENCE = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
OBJECTS: dict[str, tuple[object, ...]] = {
    "clock": (flowstate.FakeClock,),
    "ctx": (flowstate.StateContext,),
    "driver": (flowstate.Driver, PostgresDriver, RedisDriver),
    "engine": (flowstate.Engine,),
    "flows": (flowstate.FlowRegistry,),
    "lease": (recovery.Lease,),
    "page": (flowstate.Page,),
    "recoverer": (recovery.Recoverer,),
    "recovery": (recovery,),
    "state": (flowstate.State,),
    "watch": (flowstate.Watch,),
}


class Block(Struct):
    """A fenced block, and what the comment before it says."""

    note: str
    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1] or "", found[2], found[3], text.count("\n", 0, found.start(3)))
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def execute(block: Block, page: Path, names: dict[str, Any], runner: asyncio.Runner) -> str:
    """Run a block and the tests that it defines; return what it prints."""
    filled = "\n" * block.line + block.code  # So that tracebacks name the line of the page.
    code = compile(filled, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    # Workflows are compiled from their source.
    lines = [*filled.splitlines(keepends=True)]
    before = linecache.getlines(page.name)
    lines[: len(before)] = [
        now if now.strip() else then
        for now, then in itertools.zip_longest(lines[: len(before)], before, fillvalue="")
    ]
    linecache.cache[page.name] = (len(lines), None, lines, page.name)
    known = set(names)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = eval(code, names)  # noqa: S307 - the code is our own
        if inspect.iscoroutine(result):
            runner.run(result)
        for name in sorted(set(names) - known):
            if name.startswith("test_"):
                asyncio.run(names[name]())
    return printed.getvalue()


def run_shell(code: str, folder: Path, *, is_killed: bool) -> str:
    """Run the lines of a block one after the other; return what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-ec", code],
        cwd=folder,
        capture_output=True,
        env={**os.environ, "PATH": path},
        text=True,
        timeout=60,
        check=False,
    )
    killed = {-signal.SIGKILL, 128 + signal.SIGKILL}
    assert done.returncode in (killed if is_killed else {0}), done.stderr
    return done.stdout


def run_pytest(code: str, selection: str, folder: Path) -> None:
    (folder / "test_block.py").write_text(code)
    options = ["-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-k", selection]
    command = [sys.executable, "-m", "pytest", *options, "test_block.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def empty_database(postgres: Postgres) -> Iterator[str]:
    """Make a database for a page, and drop it at the end; its URL."""
    name = f"docs_{secrets.token_hex(8)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {} ENCODING 'UTF8'").format(Identifier(name)))
        try:
            yield postgres.url(name)
        finally:
            connection.execute(SQL("DROP DATABASE {}").format(Identifier(name)))


@contextlib.contextmanager
def empty_redis(server: RedisLike) -> Iterator[str]:
    """Find a database that holds nothing, and empty it at the end; its URL."""
    for number in range(1, 16):
        url = urlsplit(server.url())._replace(path=f"/{number}").geturl()
        with Redis.from_url(url) as client:
            if client.dbsize():
                continue
            try:
                yield url
            finally:
                client.flushdb()
            return
    pytest.fail("the Redis server has no empty database")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def empty_page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names of a module, in which functions can be found by their names."""
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    return vars(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    stack: contextlib.ExitStack,
) -> None:
    monkeypatch.chdir(tmp_path)
    if 'os.environ["DATABASE_URL"]' in page.read_text():
        postgres: Postgres = request.getfixturevalue("postgres")
        monkeypatch.setenv("DATABASE_URL", stack.enter_context(empty_database(postgres)))
    if 'os.environ["REDIS_URL"]' in page.read_text():
        redis_server: RedisLike = request.getfixturevalue("redis_server")
        monkeypatch.setenv("REDIS_URL", stack.enter_context(empty_redis(redis_server)))
    names = empty_page(monkeypatch)
    printed = ""
    with asyncio.Runner() as runner:
        for block in blocks(page):
            kind, _, rest = block.note.partition(" ")
            if kind == "prints":
                assert block.code == printed
            elif kind == "run":
                printed = run_shell(block.code, tmp_path, is_killed=rest == "killed")
            elif block.language != "python":
                continue
            elif kind == "file":
                (tmp_path / rest).write_text(block.code)
            elif kind == "from":
                assert block.code in (ROOT / rest).read_text(), rest
            elif kind == "pytest":
                run_pytest(block.code, rest, tmp_path)
            else:
                names = empty_page(monkeypatch) if kind == "alone" else names
                printed = execute(block, page, names, runner)


def test_programs_of_other_libraries_are_python() -> None:
    programs = [block for page in PAGES for block in blocks(page) if block.language == "py"]

    assert len(programs) == 5
    for block in programs:
        ast.parse(block.code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        reached |= new
        links = {
            (page.parent / found[0]).resolve()
            for page in new
            for found in LINK.findall(prose(page))
        }
        new = {link for link in links if link.suffix == ".md" and link.is_file()} - reached
    assert set(PAGES) - reached == set()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shell = "".join(block.code for block in blocks(page) if block.language == "sh")
        commands = re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)
        commands += re.findall(r"`make ([a-z-]+)", prose(page))
        assert set(commands) <= targets, page.name


def known_names() -> set[str]:
    names = set(dir(builtins))
    for info in pkgutil.walk_packages(flowstate.__path__, "flowstate."):
        names |= set(dir(importlib.import_module(info.name)))
    return names


def test_names_exist() -> None:
    known = known_names()
    for page in PAGES:
        for quoted in re.findall(r"`([^`\n]+)`", prose(page)):
            camel = re.findall(r"(?<![\w.\"'/-])[A-Z][a-z]+[A-Z]\w*|\b[A-Z][a-z]+(?=\()", quoted)
            assert set(camel) <= known, f"{page.name}: {quoted}"
            for owner, name in re.findall(r"\b([a-z]+)\.([a-z_]+)\b", quoted):
                if owner in OBJECTS and name not in {"md", "py"}:
                    kinds = OBJECTS[owner]
                    exists = any(hasattr(kind, name) or name in owned(kind) for kind in kinds)
                    assert exists, f"{page.name}: {quoted}"


def owned(kind: object) -> set[str]:
    """Return the attributes that a class sets on its objects, as its docstring lists them."""
    return set(re.findall(r"^\s+(\w+): ", inspect.getdoc(kind) or "", re.MULTILINE))


def test_files_exist() -> None:
    for page in PAGES:
        for quoted in re.findall(r"`([\w./-]+\.(?:py|md|toml))`", prose(page)):
            assert (ROOT / quoted).exists(), f"{page.name}: {quoted}"


def guarantees_table() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (G\d+) [^|]*\|([^|]*)\|$", text, re.MULTILINE)
    return {guarantee: re.findall(r"`(\w+)`", cases) for guarantee, cases in rows}


def test_the_cases_of_each_guarantee_exist() -> None:
    table = guarantees_table()
    cases = {case.name: case.guarantees for case in ALL}

    assert list(table) == [f"G{number}" for number in range(1, 17)]
    assert [guarantee for guarantee, names in table.items() if not names] == []
    for guarantee, names in table.items():
        assert [name for name in names if name not in cases] == [], guarantee
        wrong = [name for name in names if not re.search(rf"\b{guarantee}\b", cases[name])]
        assert wrong == [], guarantee
