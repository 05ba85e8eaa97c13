"""Two services on one store die and come back, while clients start, publish, and read the feed."""

import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

import httpx
import msgspec
import pytest

from tests.engines.tasks.service.running import document
from tests.engines.tasks.service.serving import Served, write

pytestmark = [pytest.mark.nightly, pytest.mark.server, pytest.mark.timeout(600)]

INSTANCES, DEATHS = 40, 6
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
EFFECTS = """
import pathlib

async def note(arguments, call):
    with pathlib.Path("effects").open("a") as effects:
        print(arguments["n"], call.key, file=effects, flush=True)
    return arguments["n"]

FUNCTIONS = {"note": note}
"""
ORDER = """- before: {call: note, with: {n: '${ .n }'}, output: {as: '${ {n: .} }'}}
- pay:
    listen:
      to: {one: {with: {type: paid}, correlate: {n: {from: .data.n, expect: '${ .n }'}}}}
    output: {as: '${ .[0] }'}
- after: {call: note, with: {n: '${ .n }'}}"""


def asked(services: list[Served], method: str, url: str, **given: object) -> httpx.Response:
    """Ask one of the services, and then another one, until one answers."""
    while True:
        for service in services:
            try:
                reply = service.client.request(method, url, **given)  # type: ignore[arg-type]
            except httpx.TransportError:
                continue
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                reply.raise_for_status()
                return reply


def test_nothing_is_lost_and_nothing_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "effects_here.py").write_text(EFFECTS)
    folder, words = write(tmp_path / "docs", [document(ORDER)]), "effects_here:FUNCTIONS"
    rng, ids = Random(7), dict[int, str]()
    deaths = rng.sample(range(1, INSTANCES), DEATHS)
    with ExitStack() as stack:

        def service() -> Served:
            return stack.enter_context(Served(folder, database, "--functions", words))

        services = [service(), service()]
        for n in range(INSTANCES):
            for _ in "12":  # As a client does that has got no answer.
                ids[n] = ordered(services, n)
                rng.shuffle(services)
            if n in deaths:
                services.pop().end(signal.SIGKILL)
                services.append(service())
        for n, id in ids.items():
            while (reply := asked(services, "GET", f"/instances/{id}/result")).status_code == 202:
                time.sleep(0.1)  # What ran when its process died goes on later.
            assert reply.json() == n
        check_effects((tmp_path / "effects").read_text(), services[0], ids)
        assert services[0].end(signal.SIGTERM) == 0


def ordered(services: list[Served], n: int) -> str:
    """Start an instance and publish its event; return its id."""
    start = {"definition": "demo/order", "input": {"n": n}}
    key = {"Idempotency-Key": str(n)}
    id: str = asked(services, "POST", "/instances", json=start, headers=key).json()["id"]
    event = {"specversion": "1.0", "id": str(n), "source": "bank", "type": "paid"}
    asked(services, "POST", "/events", json={**event, "data": {"n": n}}, headers=STRUCTURED)
    return id


def check_effects(effects: str, service: Served, ids: dict[int, str]) -> None:
    """Each call was made, again only with its key; the feed tells each thing once."""
    keys = {tuple(line.split()) for line in effects.splitlines()}
    assert Counter(int(n) for n, _ in keys) == dict.fromkeys(ids, 2)
    completed = Counter[str]()
    with service.feed() as feed:
        while completed.total() < len(ids):
            moment = msgspec.json.decode(next(feed)[1])
            if any(not each["task"] and each["what"] == "completed" for each in moment["happened"]):
                completed[moment["id"]] += 1
    assert completed == dict.fromkeys(ids.values(), 1)
