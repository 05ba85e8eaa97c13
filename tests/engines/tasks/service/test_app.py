"""The service over HTTP: what it answers, and what it refuses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount

from flowstate import FakeClock, Status
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import SET, document, tasks_on

SLEEP = "- sleep: {wait: {hours: 1}}"
LISTEN = "- pay: {listen: {to: {one: {with: {type: paid}}}}}"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": "bank", "type": "paid"}
TOKEN = "a-token-of-ours"  # noqa: S105 - of this test


@contextlib.asynccontextmanager
async def service(**options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Tasks]]:
    """Open tasks, and a client of their service."""
    clock = options.pop("clock", None)
    async with tasks_on(clock=clock) as tasks:
        transport = httpx.ASGITransport(app(tasks, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://tasks") as client:
            yield client, tasks


async def started(client: httpx.AsyncClient, do: str = SET, **fields: Any) -> Any:
    await client.post("/definitions", content=document(do))
    reply = await client.post("/instances", json={"definition": "demo/order", **fields})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def test_an_instance_is_started_and_its_result_is_waited_for() -> None:
    async with service() as (client, _):
        stored = await client.post("/definitions", content=document())
        again = await client.post("/definitions", content=document())
        assert (stored.status_code, again.status_code) == (201, 200)
        assert stored.json() == {"key": "demo/order:1.0.0", "is_new": True}
        start = {"definition": "demo/order", "input": {"n": 1}, "labels": {"team": "a"}}
        reply = await client.post("/instances", json=start)
        id = reply.json()["id"]

        assert reply.headers["Location"] == f"http://tasks/instances/{id}"
        result = await client.get(f"/instances/{id}/result", params={"timeout": 10})
        assert (result.status_code, result.json()) == (200, {"done": True})
        details = (await client.get(reply.headers["Location"])).json()
        assert (details["phase"], details["labels"]) == ("completed", {"team": "a"})


async def test_the_same_key_starts_nothing_more() -> None:
    async with service() as (client, _):
        await client.post("/definitions", content=document())
        start = {"definition": "demo/order", "input": {"n": 1}}
        key = {"Idempotency-Key": "k"}
        one, other = [await client.post("/instances", json=start, headers=key) for _ in "12"]
        assert one.json()["id"] == other.json()["id"]
        different = await client.post("/instances", json={**start, "input": 2}, headers=key)

        assert different.status_code == 409
        assert different.headers["Content-Type"] == "application/problem+json"


async def test_a_result_that_is_not_there_yet() -> None:
    async with service() as (client, _):
        id = (await started(client, SLEEP))["id"]
        reply = await client.get(f"/instances/{id}/result")
        assert (reply.status_code, reply.json()["id"]) == (202, id)
        await client.post(f"/instances/{id}/cancel", params={"hard": "true"})

        assert (await client.get(f"/instances/{id}/result?timeout=9")).status_code == 409


async def test_the_error_of_an_instance_is_that_of_its_result() -> None:
    fail = "- fail: {raise: {error: {type: https://a.example/x, status: 422, title: Empty}}}"
    async with service() as (client, _):
        id = (await started(client, fail))["id"]
        reply = await client.get(f"/instances/{id}/result", params={"timeout": 10})

        assert reply.status_code == 422
        assert reply.json()["type"] == "https://a.example/x"
        assert reply.json()["instance"] == "/do/0/fail"


async def test_events_of_each_form_are_stored() -> None:
    async with service() as (client, tasks):
        id = (await started(client, f"{LISTEN}\n{SET}"))["id"]
        await tasks.engine.wait_for(id, status=Status.PAUSED)
        batch = [{**EVENT, "id": "2", "type": "other"}, {**EVENT, "id": "3", "type": "other"}]
        binary = {f"ce-{name}": value for name, value in {**EVENT, "type": "other"}.items()}
        replies = [
            await client.post("/events", json=batch, headers=BATCH),
            await client.post("/events", content=b"1", headers={**binary, "ce-id": "4"}),
            await client.post("/events", json=EVENT, headers=STRUCTURED),
            await client.post("/events", json=EVENT, headers=STRUCTURED),
        ]

        assert [each.status_code for each in replies] == [202] * 4
        assert [each.json()["published"] for each in replies] == [2, 1, 1, 0]
        result = await client.get(f"/instances/{id}/result", params={"timeout": 10})
        assert result.json() == {"done": True}


async def test_lists_link_to_their_next_pages() -> None:
    async with service() as (client, _):
        for _ in range(5):
            await started(client, SLEEP)
        url, pages = "/instances?limit=2&definition=demo/order", []
        while url:
            reply = await client.get(url)
            pages.append([each["id"] for each in reply.json()["instances"]])
            url = reply.links["next"]["url"] if "next" in reply.links else ""

        assert [len(each) for each in pages] == [2, 2, 1]
        assert len({id for page in pages for id in page}) == 5


async def test_children_are_found_although_their_ids_have_slashes() -> None:
    run = "- run: {run: {workflow: {namespace: demo, name: child, version: 1.0.0}}}"
    async with service() as (client, tasks):
        await tasks.add(document(name="child"))
        id = (await started(client, run))["id"]
        await client.get(f"/instances/{id}/result", params={"timeout": 10})
        listed = await client.get("/instances", params={"label": f"parent:{id}"})
        (child,) = listed.json()["instances"]

        assert (child["definition"], child["labels"]) == ("demo/child", {"parent": id})
        assert "/" in child["id"]
        for url in (child["id"], child["id"].replace("/", "%2F")):
            assert (await client.get(f"/instances/{url}")).json()["output"] == {"done": True}
            history = (await client.get(f"/instances/{url}/history")).json()
            assert history["moments"][0]["id"] == child["id"]


async def test_what_has_not_changed_is_not_sent_again() -> None:
    async with service() as (client, tasks):
        id = (await started(client, SLEEP))["id"]
        await tasks.engine.wait_for(id, status=Status.PAUSED)
        tag = (await client.get(f"/instances/{id}")).headers["ETag"]
        same = await client.get(f"/instances/{id}", headers={"If-None-Match": tag})
        assert (same.status_code, same.content) == (304, b"")
        await client.post(f"/instances/{id}/cancel?hard=true")
        changed = await client.get(f"/instances/{id}", headers={"If-None-Match": tag})

        assert (changed.status_code, changed.json()["phase"]) == (200, "cancelled")


async def test_documents_are_read_and_removed() -> None:
    async with service() as (client, _):
        text = document()
        await client.post("/definitions", content=text)
        url = "/definitions/demo/order/1.0.0"
        assert (await client.get(url)).text == text
        assert (await client.delete(url)).status_code == 204
        assert (await client.get("/definitions")).json() == []


async def test_a_wrong_document_is_answered_with_all_that_is_wrong() -> None:
    wrong = document("- a: {wiat: {}}\n- b: {set: {x: '${ . | }'}}")
    async with service() as (client, _):
        reply = await client.post("/definitions", content=wrong)

        assert reply.status_code == 422
        problems = reply.json()["problems"]
        assert {each["path"].split("/")[2] for each in problems} >= {"0", "1"}
        assert all(each["line"] > 0 for each in problems)


REFUSED = [
    ("GET", "/nothing", {}, 404),
    ("GET", "/instances/nothing", {}, 404),
    ("GET", "/instances/tasks.document.demo%2Forder:1.0.0", {}, 404),
    ("POST", "/instances/nothing/cancel", {}, 404),
    ("GET", "/definitions/demo/order/9.9.9", {}, 404),
    ("PUT", "/definitions", {}, 405),
    ("GET", "/instances?phase=odd", {}, 400),
    ("GET", "/instances?limit=0", {}, 400),
    ("GET", "/instances?limit=many", {}, 400),
    ("GET", "/instances?since=2026-01-01", {}, 400),
    ("POST", "/instances", {"content": b"{"}, 400),
    ("POST", "/instances", {"json": {"definition": "demo/order", "inptu": 1}}, 400),
    ("POST", "/instances", {"json": {"definition": "demo/nothing"}}, 404),
    ("POST", "/instances", {"json": {"definition": "demo/order", "id": "a/b"}}, 400),
    ("POST", "/instances", {"json": {"definition": "demo/order", "id": "flowstate.lease.x"}}, 400),
    ("POST", "/instances", {"json": {"definition": "demo/order", "labels": {"stop": "x"}}}, 400),
    ("POST", "/instances", {"content": b'{"input":' + b"[" * 60_000}, 400),
    ("GET", "/instances/%00", {}, 400),
    ("POST", "/events", {"content": b"[" * 60_000, "headers": STRUCTURED}, 400),
    ("POST", "/definitions", {"content": b"[" * 60_000}, 422),
    ("POST", "/events", {"json": EVENT}, 400),
    ("POST", "/events", {"json": {}, "headers": STRUCTURED}, 400),
    ("POST", "/definitions", {"content": b"\xff"}, 400),
    ("POST", "/definitions", {"content": b"x" * 70_000}, 413),
]


@pytest.mark.parametrize(("method", "url", "given", "status"), REFUSED)
async def test_what_is_wrong_is_refused_as_problem_details(
    method: str, url: str, given: Any, status: int
) -> None:
    async with service(most_bytes=65_536) as (client, _):
        await client.post("/definitions", content=document())
        reply = await client.request(method, url, **given)

        assert reply.status_code == status, reply.text
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json()["status"] == status


async def test_without_a_token_nothing_but_health_is_answered() -> None:
    async with service(tokens=[TOKEN, "another"]) as (client, _):
        assert (await client.get("/health")).status_code == 200
        for value in ("", TOKEN, "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            reply = await client.get("/definitions", headers={"Authorization": value})
            assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        for token in (TOKEN, "another"):
            good = {"Authorization": f"Bearer {token}"}
            assert (await client.get("/definitions", headers=good)).status_code == 200


async def test_who_serves_without_tokens_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    async with service():
        assert "without tokens" in caplog.text
    caplog.clear()
    async with service(tokens=[TOKEN]):
        assert caplog.text == ""


async def test_an_error_that_is_not_expected_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("a secret detail")

    async with service() as (client, tasks):
        monkeypatch.setattr(tasks.engine.__class__, "head", broken)
        reply = await client.get("/health")

        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert "a secret detail" in caplog.text


async def test_the_description_is_one_of_openapi() -> None:
    async with service() as (client, tasks):
        found = (await client.get("/openapi.json")).json()
        validate(found)

        assert found["openapi"] == "3.1.0"
        assert {"get", "post"} == found["paths"]["/instances"].keys()
        phase = next(
            each
            for each in found["paths"]["/instances"]["get"]["parameters"]
            if each["name"] == "phase"
        )
        assert "waiting" in str(phase["schema"])
        mounted = Starlette(routes=[Mount("/tasks", app(tasks, tokens=[TOKEN]))])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(mounted), base_url="http://all"
        ) as other:
            assert (await other.get("/tasks/health")).json()["status"] == "ok"
            found = (await other.get("/tasks/openapi.json")).json()
            assert found["servers"] == [{"url": "/tasks"}]


async def test_pages_of_other_origins_may_not_read_it() -> None:
    async with service() as (client, _):
        reply = await client.get("/health", headers={"Origin": "https://evil.example"})

        assert "Access-Control-Allow-Origin" not in reply.headers


async def test_metrics_count_what_happens_here_and_elsewhere() -> None:
    clock = FakeClock()
    async with service(clock=clock) as (client, tasks):
        id = (await started(client, f"{SLEEP}\n{SET}"))["id"]
        await tasks.engine.wait_for(id, status=Status.PAUSED)
        clock.advance(3600.0)
        await tasks.engine.wait_for(id, status=Status.ENDED)
        name, text = 'definition="demo/order"', ""
        async with asyncio.timeout(10):
            while 'scope="workflow",what="completed"' not in text:
                await asyncio.sleep(0)  # It follows the log.
                text = (await client.get("/metrics")).text
        clock.advance(10.0)
        text = (await client.get("/metrics")).text
        for line in (
            f'flowstate_tasks_happened_total{{{name},scope="workflow",what="completed"}} 1',
            f'flowstate_tasks_happened_total{{{name},scope="task",what="completed"}} 2',
            f'flowstate_tasks_instances{{{name},status="ended"}} 1',
            f'flowstate_tasks_instances{{{name},status="paused"}} 0',
            "flowstate_tasks_log_gaps_total 0",
        ):
            assert line in text.splitlines()
        for line in text.splitlines():
            assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2
