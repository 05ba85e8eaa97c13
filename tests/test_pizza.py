"""The pizza service over HTTP, as its customers use it: answered, killed, asked wrongly."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("examples.pizza.orders")
from examples.pizza.__main__ import ask

pytestmark = [pytest.mark.repository, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
RESULT = "/pizza/1/result?timeout=60"
ORDER = {"data": {"pizza": "funghi", "cents": 1_095}}


class Service:
    """A process that serves, with a folder and a port of its own.

    Attributes:
        base: of its URLs.
    """

    def __init__(self, folder: Path, patience: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        program = [sys.executable, "-m", "examples.pizza.server"]
        self._command = [*program, str(folder), str(port), patience]
        self.start()

    def start(self) -> None:
        env = {**os.environ, "PIZZA_SECRET": "a secret of the tests"}
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=env, stdin=subprocess.PIPE)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        self._process.communicate()  # It serves until its input ends.
        return self._process.returncode

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return ask(method, f"{self.base}{path}", body)

    def mail(self, who: str) -> str:
        """Return the newest link that someone has got, as soon as there is one."""
        while not (found := self.ask("GET", f"/books/{who}")[1]):
            time.sleep(0.02)  # It is another process; the timeout of the test ends this.
        return str(found[-1][1])


@pytest.fixture
def patience() -> str:
    return "60"


@pytest.fixture
def service(tmp_path: Path, patience: str) -> Iterator[Service]:
    with closing(Service(tmp_path, patience)) as service:
        yield service


def test_a_pizza_is_delivered_although_the_service_dies_and_callers_repeat_themselves(
    service: Service,
) -> None:
    assert service.ask("PUT", "/pizza/1", ORDER)[0] == 201
    assert service.ask("PUT", "/pizza/1", ORDER)[0] == 200
    link = service.mail("kitchen")
    assert ask("POST", link, {"yes": True}) == (200, "thank you, kitchen")
    service.close()
    service.start()
    assert ask("POST", link, {"yes": True}) == (200, "thank you, kitchen")
    assert ask("POST", service.mail("courier"), {"yes": True})[0] == 200
    assert service.ask("GET", "/pizza/1/result")[0] == 202
    assert ask("POST", service.mail("customer"), {"yes": True})[0] == 200

    assert service.ask("GET", RESULT) == (200, "delivered")
    assert service.ask("GET", "/books/charge") == (200, [["1", "1095"]])
    assert service.ask("GET", "/books/refund") == (200, [])
    assert ask("POST", link, {"yes": False})[0] == 410
    assert service.stop() == 0


@pytest.mark.parametrize("patience", ["0.2"])
def test_who_is_asked_is_reminded_twice_and_silence_is_a_refund(service: Service) -> None:
    assert service.ask("PUT", "/pizza/1", ORDER)[0] == 201

    assert service.ask("GET", RESULT) == (200, "refunded")
    links = [link for _, link in service.ask("GET", "/books/kitchen")[1]]
    assert len({*links}) == len(links) == 3
    assert service.ask("GET", "/books/refund") == (200, [["1", "1095"]])
    assert ask("POST", links[0], {"yes": True})[0] == 410


def test_what_is_wrong_is_told_and_changes_nothing(service: Service) -> None:
    assert service.ask("PUT", "/pizza/1", {"data": {"pizza": 1}})[0] == 422
    assert service.ask("GET", "/pizza/1")[0] == 404
    assert service.ask("PUT", "/pizza/1", ORDER)[0] == 201
    link = service.mail("kitchen")
    assert ask("POST", link, {"yes": "perhaps"})[0] == 422
    assert ask("POST", link.replace("/callbacks/", "/callbacks/A"), {"yes": True})[0] == 403
    assert service.ask("PUT", "/pizza/2", {"data": {"pizza": "x" * 70_000, "cents": 1}})[0] == 422
    assert service.ask("GET", "/elsewhere")[0] == 404
    assert service.ask("POST", "/pizza/1/messages/cancel", {"why": "late"})[0] == 202

    assert service.ask("GET", RESULT) == (200, "refunded")
    assert service.ask("GET", "/pizza/1")[1]["stage"] == "refund"


def test_the_demo_proves_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.pizza"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Killed the service" in done.stdout
    assert "30 of 30 orders ended" in done.stdout
