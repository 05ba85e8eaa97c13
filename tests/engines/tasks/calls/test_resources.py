"""External resources: got over HTTP or read from a folder, and kept for a while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowstate import FakeClock
from flowstate.engines.tasks.calls.resources import parsed, resource
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import served


@attrs.define
class Site:
    """Has one page."""

    content: bytes = b"a: 1"
    status: int = 200
    seen: list[str | None] = attrs.field(factory=list)
    origin: str = ""

    async def answer(self, request: Request) -> Response:
        self.seen.append(request.headers.get("authorization"))
        return Response(self.content, self.status)


@contextlib.asynccontextmanager
async def open_site(**options: Any) -> AsyncIterator[tuple[Site, Caller]]:
    site = Site()
    app = Starlette(routes=[Route("/{path:path}", site.answer)])
    async with served(app) as site.origin, caller(**options) as task:
        yield site, task


async def failed(source: Any, task: Caller, **more: Any) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await parsed(source, attrs.evolve(task.call, **more))
    return caught.value


async def test_a_resource_is_kept_for_five_minutes_and_its_failures_are_not() -> None:
    clock = FakeClock()
    async with open_site(clock=clock) as (site, task):
        site.status = 503
        error = await failed(f"{site.origin}/x?key=1", task)
        assert (error.status, error.detail) == (503, f"{site.origin}/x was answered with 503")
        site.status = 200
        with clock.working():
            for _ in range(2):
                assert await parsed(f"{site.origin}/x?key=1", task.call) == {"a": 1}
        assert len(site.seen) == 2
        await clock.sleep(301)
        assert await resource({"endpoint": f"{site.origin}/x?key=1"}, task.call) == b"a: 1"
        assert len(site.seen) == 3


async def test_two_calls_at_once_get_it_once() -> None:
    async with open_site() as (site, task):
        found = await asyncio.gather(*(parsed(site.origin, task.call) for _ in range(20)))
        assert found == [{"a": 1}] * 20
        assert len(site.seen) == 1


async def test_calls_that_wait_for_a_resource_fail_together() -> None:
    async with open_site() as (site, task):
        site.status = 503
        calls = (failed(site.origin, task) for _ in range(20))
        assert {error.status for error in await asyncio.gather(*calls)} == {503}
        assert len(site.seen) == 1
        await failed(site.origin, task)
        assert len(site.seen) == 2


async def test_another_policy_gets_it_for_itself() -> None:
    async with open_site() as (site, task):
        for token in ("one", "two", "one"):
            endpoint = {"uri": site.origin, "authentication": {"bearer": {"token": token}}}
            await parsed({"endpoint": endpoint}, task.call)
        assert site.seen == ["Bearer one", "Bearer two"]


async def test_a_policy_of_one_name_that_comes_to_another_gets_it_for_itself() -> None:
    content = {"use": {"authentications": {"mine": {"bearer": {"token": "${ .token }"}}}}}
    async with open_site(content=content) as (site, task):
        for token in ("one", "two", "one"):

            async def evaluate(_: Any, token: str = token) -> Any:
                return {"bearer": {"token": token}}

            endpoint = {"uri": site.origin, "authentication": {"use": "mine"}}
            await parsed({"endpoint": endpoint}, attrs.evolve(task.call, evaluate=evaluate))
        assert site.seen == ["Bearer one", "Bearer two"]


async def test_no_more_than_so_many_are_kept() -> None:
    async with open_site() as (site, task):
        resources = task.call.runtime.outgoing.resources  # type: ignore[union-attr]
        for number in range(resources.most + 5):
            await resource(f"{site.origin}/{number}", task.call)
        assert len(resources._entries) == resources.most


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": [1, null]}', {"a": [1, None]}),
        (b"on: yes\nno: [1.5, ~]", {"on": "yes", "no": [1.5, None]}),
    ],
)
async def test_a_resource_can_be_json_or_yaml(content: bytes, value: Any) -> None:
    async with open_site() as (site, task):
        site.content = content
        assert await parsed(site.origin, task.call) == value


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"a: !!python/object:os.system x"])
async def test_what_is_neither_is_a_failure_of_communication(content: bytes) -> None:
    async with open_site() as (site, task):
        site.content = content
        assert (await failed(f"{site.origin}/?key=s3cret", task)).type.endswith("communication")
        assert "s3cret" not in (await failed(f"{site.origin}/?key=s3cret", task)).detail


async def test_a_uri_can_be_a_template() -> None:
    async with open_site() as (site, task):
        call = attrs.evolve(task.call, input={"name": "x"})
        assert await parsed(f"{site.origin}/{{name}}", call) == {"a": 1}
        assert len(site.seen) == 1
        assert (await failed(f"{site.origin}/{{name}}", task, input={"name": []})).status == 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside.yaml").write_text("secret: 1")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a b.yaml").write_text("a: 1")
    (tmp_path / "in" / "sub" / "b.json").write_text('{"b": 2}')
    (tmp_path / "in" / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (tmp_path / "in" / "good.yaml").symlink_to("sub/b.json")
    return tmp_path / "in"


async def test_files_of_a_folder_are_resources_if_there_is_one(folder: Path) -> None:
    async with caller(outgoing={"files": folder}) as task:
        for uri in (
            "file://sub/b.json",
            "file:sub/b.json",
            "file:///sub/b.json",
            "file://good.yaml",
            f"file://{folder}/sub/b.json",
        ):
            assert await parsed(uri, task.call) == {"b": 2}
        assert await parsed("file://a%20b.yaml", task.call) == {"a": 1}
    async with caller(outgoing={}) as task:
        error = await failed("file://sub/b.json", task)
    assert (error.status, error.detail) == (403, "files are no resources here")


@pytest.mark.parametrize(
    "uri",
    [
        "file://../outside.yaml",
        "file:///../outside.yaml",
        "file://sub/../../outside.yaml",
        "file://%2e%2e/outside.yaml",
        "file://..%2foutside.yaml",
        "file://link.yaml",
        "file:///etc/passwd",
        "file://sub",
        "file://missing.yaml",
        "file://",
        "file://x%00y",
        "FILE:///etc/passwd",
    ],
)
async def test_nothing_out_of_the_folder_is_read(folder: Path, uri: str) -> None:
    async with caller(outgoing={"files": folder}) as task:
        assert (await failed(uri, task)).status == 403


async def test_a_file_is_bounded(folder: Path) -> None:
    (folder / "large").write_bytes(b"x" * 2_000)
    async with caller(outgoing={"files": folder, "most_bytes": 1_000}) as task:
        assert (await failed("file://large", task)).detail == "the file 'large' is too large"
