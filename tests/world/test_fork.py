"""Engines, drivers and leases around a fork."""

import json
import subprocess
from typing import Any

from tests.world.forked import CHILDREN
from tests.world.places import ROOT, Place, command

TIMES = 8


def outcome(what: str, place: Place) -> dict[str, Any]:
    done = subprocess.run(
        command("forked", place, what),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_what_was_made_before_a_fork_is_entered_in_the_children(place: Place) -> None:
    found = outcome("preloaded", place)
    told = found["told"]
    assert all(isinstance(each, dict) for each in told), told
    assert [str(each["number"]) for each in told if each["won"]] == [found["seat"]]
    assert len({each["name"] for each in told}) == CHILDREN
    assert sum(each["held"] for each in told) == 1
    assert found["timers"] == [f"timer-{number}" for number in range(CHILDREN)]


def test_a_driver_that_was_closed_before_a_fork(any_place: Place) -> None:
    found = outcome("used_before", any_place)
    assert found["told"] == [True] * CHILDREN
    assert found["head"] == 1 + (0 if any_place.kind == "memory" else 5 * CHILDREN)


def test_an_open_engine_refuses_in_a_child_and_goes_on_here(any_place: Place) -> None:
    found = outcome("open_in_child", any_place)
    refused = {"EngineStoppedError", "DriverClosedError", "InvalidInputError"}
    assert set(found["told"][:-1]) <= refused, found["told"]
    assert found["told"][-1] == "done"
    assert found["failed"] == []


def test_another_engine_in_a_child_of_a_process_with_an_open_one(place: Place) -> None:
    """It works, or is refused at once: a fork mixes up the locks of SQLite."""
    found = outcome("opened_anew", place)
    refused = place.kind == "sqlite"
    assert found["told"] == ["StoreUnavailableError" if refused else "done"] * TIMES
    assert found["stored"] == ([] if refused else [f"child-{number}" for number in range(TIMES)])
    assert found["failed"] == []
