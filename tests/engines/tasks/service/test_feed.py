"""The live feed: each revision once, in order, from where a reader left."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import uvicorn

from flowstate import Status
from flowstate.engines.tasks.service import feed
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.serving import Server
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import SET, document, tasks_on

Event = tuple[str, str, dict[str, object]]


@contextlib.asynccontextmanager
async def served(tasks: Tasks) -> AsyncIterator[str]:
    """Serve tasks on a port of this process, and yield the URL."""
    config = uvicorn.Config(app(tasks, tokens=["t"]), log_level="error", lifespan="off")
    server, listener = Server(config), socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    kind = id = ""
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            id = value
        elif name == "event":
            kind = value
        elif name == "data":
            yield kind or "message", id, msgspec.json.decode(value)
            kind = ""


@contextlib.asynccontextmanager
async def reading(url: str, since: str, **query: str) -> AsyncIterator[AsyncIterator[Event]]:
    headers = {"Authorization": "Bearer t", "Last-Event-ID": since}
    async with (
        httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as client,
        client.stream("GET", "/feed", headers=headers, params=query) as reply,
    ):
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        yield events(reply.aiter_lines())


async def some(found: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(found) for _ in range(count)]


async def test_each_revision_comes_once_also_to_a_reader_that_comes_back() -> None:
    async with tasks_on() as tasks, served(tasks) as url:
        await tasks.add(document(f"{SET}\n- nap: {{wait: {{milliseconds: 20}}}}"))
        ids = [await tasks.start("demo/order") for _ in range(5)]
        for id in ids:
            await tasks.result(id)
            await tasks.engine.wait_for(id, status=Status.ENDED)
        stored = [state.rev async for state in tasks.engine.states(labels={"workflow": "tasks"})]
        seen: list[int] = []
        while len(seen) < len(stored):
            async with reading(url, str(seen[-1] if seen else 0)) as found:
                seen += [int(id) for _, id, _ in await some(found, min(7, len(stored) - len(seen)))]

        assert seen == stored


async def test_what_happens_now_is_told_at_once() -> None:
    async with tasks_on() as tasks, served(tasks) as url:
        await tasks.add(document())
        head = await tasks.engine.head()
        async with reading(url, str(head), definition="demo/order") as found:
            id = await tasks.start("demo/order")
            async with asyncio.timeout(10):
                async for _, _, moment in found:
                    assert moment["id"] == id
                    if moment["phase"] == "completed":
                        break


async def test_one_instance_can_be_followed() -> None:
    async with tasks_on() as tasks, served(tasks) as url:
        await tasks.add(document())
        ids = [await tasks.start("demo/order") for _ in range(3)]
        for id in ids:
            await tasks.engine.wait_for(id, status=Status.ENDED)
        async with reading(url, "0", instance=ids[1]) as found, asyncio.timeout(10):
            async for _, _, moment in found:
                assert moment["id"] == ids[1]
                if moment["phase"] == "completed":
                    break


async def test_a_gap_is_told() -> None:
    async with tasks_on() as tasks, served(tasks) as url:
        await tasks.add(document())
        for _ in range(3):
            await tasks.engine.wait_for(await tasks.start("demo/order"), status=Status.ENDED)
        head = await tasks.engine.head()
        await tasks.engine.compact(head)
        async with reading(url, "1") as found:
            kind, since, _ = await anext(found)
            assert (kind, int(since)) == ("gap", head - 1)
            kind, id, _ = await anext(found)
            assert (kind, int(id)) == ("message", head)
        async with reading(url, str(head + 1_000)) as found:  # Of a store that is not there now.
            assert (await anext(found))[:2] == ("gap", str(head))


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PATIENCE", 0.2)
    async with tasks_on() as tasks, served(tasks) as url:
        large = {"text": "x" * 60_000}
        await tasks.add(document("- keep: {set: '${ . }', export: {as: '${ . }'}}"))
        for _ in range(100):
            await tasks.start("demo/order", large)
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            request = "GET /feed?since=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"
            slow.sendall(request.encode())
            async with asyncio.timeout(20):
                while feeds():  # noqa: ASYNC110 - of the server
                    await asyncio.sleep(0.05)
        async with reading(url, "0") as found:  # Others are served as before.
            assert await anext(found)


def feeds() -> list[object]:
    return [task for task in asyncio.all_tasks() if "Feed._send" in repr(task)]


async def test_a_quiet_feed_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "QUIET", 0.05)
    async with tasks_on() as tasks, served(tasks) as url:
        await tasks.add(document())
        head = await tasks.engine.head()
        headers = {"Authorization": "Bearer t", "Last-Event-ID": str(head)}
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
            client.stream("GET", "/feed", headers=headers) as reply,
            asyncio.timeout(10),
        ):
            async for line in reply.aiter_lines():
                if line == ": quiet":
                    break
