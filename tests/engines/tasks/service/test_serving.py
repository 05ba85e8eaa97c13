"""The service as a program: from a folder of files to instances that survive its death."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import httpx
import pytest

from flowstate.engines.tasks.__main__ import main
from tests.engines.tasks.service.running import SET, document
from tests.engines.tasks.service.serving import PATIENCE, Served, write

NAP = "- nap: {wait: {seconds: 4}}"
LISTEN = "- pay: {listen: {to: {one: {with: {type: paid}}}}}"
EVENT = {"specversion": "1.0", "id": "1", "source": "bank", "type": "paid"}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


def wait_until(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)  # Another process is waited for.


@pytest.mark.slow
def test_instances_survive_the_death_of_the_service(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", [document(f"{NAP}\n{LISTEN}\n{SET}")])
    store = f"sqlite:///{tmp_path / 'tasks.db'}"
    with Served(folder, store) as service:
        ids = [service.start("demo/order") for _ in range(5)]
        with service.feed() as feed:
            before = [next(feed) for _ in range(6)]
        for id in ids:  # What runs when its process dies goes on much later.
            wait_until(partial(waits, service, id))
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
    with Served(folder, store) as service:
        for id in ids:
            wait_until(partial(stands_at, service, id, "/do/1/pay"))
        reply = service.client.post("/events", json=EVENT, headers=STRUCTURED)
        assert reply.status_code == httpx.codes.ACCEPTED
        assert [service.result(id) for id in ids] == [{"done": True}] * 5
        with service.feed(since=before[-1][0]) as feed:
            revs = [int(rev) for rev, _ in before]
            while len(done := [data for _, data in before if '"phase":"completed"' in data]) < 5:
                before.append(next(feed))
                revs.append(int(before[-1][0]))
            assert len(done) == 5
            assert revs == sorted(set(revs))
            assert service.end() == 0  # Although someone reads.
        assert service.lines[-1] == "ending\n"


def waits(service: Served, id: str) -> bool:
    return bool(service.client.get(f"/instances/{id}").json()["phase"] == "waiting")


def stands_at(service: Served, id: str, task: str) -> bool:
    return bool(service.client.get(f"/instances/{id}").json()["task"] == task)


@pytest.mark.slow
def test_files_that_change_are_stored_while_it_serves(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", [document()])
    with Served(folder, "memory:", "--look", "0.05") as service:
        assert names(service) == ["demo/order:1.0.0"]
        (folder / "0.yaml").write_text(document(version="1.1.0"))
        wait_until(lambda: names(service) == ["demo/order:1.0.0", "demo/order:1.1.0"])
        (folder / "more").mkdir()
        (folder / "more" / "bad.yaml").write_text("document: [")
        wait_until(lambda: any("bad.yaml:" in line for line in service.lines))
        (folder / "0.yaml").write_text(document(NAP, version="1.1.0"))
        wait_until(lambda: any("raise the version" in line for line in service.lines))
        assert service.result(service.start("demo/order")) == {"done": True}


@pytest.mark.slow
def test_a_signal_makes_it_look_for_changes(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", [document()])
    with Served(folder, "memory:", "--look", "3600") as service:
        (folder / "0.yaml").write_text(document(version="1.1.0"))
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(names(service)) == 2)


def names(service: Served) -> list[str]:
    found = service.client.get("/definitions").json()
    return [f"{each['name']}:{each['version']}" for each in found]


CALLED = """
import asyncio, pathlib

async def slow(arguments, call):
    with pathlib.Path("called").open("a") as called:
        print(call.key, file=called)
    if len(pathlib.Path("called").read_text().split()) == 1:
        await asyncio.sleep(3600)
    return "done"

FUNCTIONS = {"slow": slow}
"""


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_a_call_that_a_death_has_interrupted_is_made_again_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "called_here.py").write_text(CALLED)
    folder = write(tmp_path / "docs", [document("- slow: {call: slow}")])
    words = ("--functions", "called_here:FUNCTIONS")
    with Served(folder, "sqlite:///tasks.db", *words) as service:
        id = service.start("demo/order")
        wait_until((tmp_path / "called").exists)
        service.end(signal.SIGKILL)
    with Served(folder, "sqlite:///tasks.db", *words) as service:
        assert service.result(id) == "done"  # After two minutes without a sign of life.
    first, second = (tmp_path / "called").read_text().split()
    assert first == second


class Sink(BaseHTTPRequestHandler):
    """Takes events."""

    taken: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_lifecycle_events_are_posted_to_a_sink(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", [document()])
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as sink:
        Thread(target=sink.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{sink.server_port}/"
        words = ("--sink", url, "--private-host", "127.0.0.1")
        with Served(folder, "memory:", *words) as service:
            id = service.start("demo/order")
            last = "io.serverlessworkflow.workflow.completed.v1"
            wait_until(lambda: bool(Sink.taken) and Sink.taken[-1]["type"] == last)
        sink.shutdown()
    assert {each["subject"] for each in Sink.taken} == {id}
    assert [each["type"].split(".")[-2] for each in Sink.taken][:1] == ["started"]


@pytest.mark.slow
@pytest.mark.server
def test_two_services_share_a_store(tmp_path: Path, database: str) -> None:
    folder, url = write(tmp_path / "docs", [document(f"{LISTEN}\n{SET}")]), database
    with Served(folder, url) as one, Served(folder, url) as other:
        keys = {"Idempotency-Key": "k"}
        start = {"definition": "demo/order"}
        with ThreadPoolExecutor(8) as pool:
            posts = [each.client.post for each in (one, other) * 4]
            starts = [pool.submit(post, "/instances", json=start, headers=keys) for post in posts]
        ids = {each.result().json()["id"] for each in starts}
        assert len(ids) == 1
        further = [each.start("demo/order") for each in (one, other) * 5]
        for id in (*ids, *further):
            wait_until(partial(waits, other, id))
        assert one.end(signal.SIGKILL) == -signal.SIGKILL
        other.client.post("/events", json=EVENT, headers=STRUCTURED).raise_for_status()
        assert [other.result(id) for id in (*ids, *further)] == [{"done": True}] * 11


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["serve", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["serve", ".", "--store", "mysql://x"], "redis://... or memory:, not 'mysql://x'"),
        (["serve", ".", "--store", "sqlite://x"], "must be sqlite:///FILE"),
        (["serve", ".", "--secrets", "here"], "must be env:PREFIX or folder:PATH, not 'here'"),
        (["serve", ".", "--functions", "no_such_module:x"], "No module named 'no_such_module'"),
        (["serve", ".", "--functions", "math:pi"], "'math:pi' is no mapping"),
        (["serve", ".", "--host", "256.0.0.1"], "python -m flowstate.engines.tasks:"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_said_in_one_line(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


def test_a_folder_with_a_wrong_document_is_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, [document(), document("- a: {wiat: {}}", name="bad")])

    assert main(["serve", str(folder), "--store", "memory:", "--port", "0"]) == 1
    assert f"{folder / '1.yaml'}:3: /do/0" in capsys.readouterr().err


def test_documents_are_checked_without_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(tmp_path, [document()]) / "0.yaml", tmp_path / "bad.yaml"
    bad.write_text(document("- a: {wiat: {}}"))

    assert main(["check", str(good)]) == 0
    for words in ([str(good), str(bad)], [str(tmp_path)]):
        assert main(["check", *words]) == 1
        assert f"{bad}:3: /do/0" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert main(["check", str(tmp_path / "none")]) == 1
    assert "there is no document" in capsys.readouterr().err
