"""The endurance test itself: it runs, counts what it did, and tells how to replay what it found."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.generated import crashing
from tests.planted_bugs import reads_are_stale
from tests.soak.catalogue import STAGES
from tests.soak.crunching import crunch
from tests.soak.report import table
from tests.soak.soak import Soak
from tests.soak.stage import Outcome, Piece, Stage, Tally

ROOT = Path(__file__).parents[2]
BY_NAME = {stage.name: stage for stage in STAGES}


@pytest.mark.slow
def test_runs_a_stage_with_an_amount_and_one_with_a_time() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.05", "--seed", "7"]
    counted = subprocess.run(
        [*command, "--only", "counters-sqlite", "--amount", "2000"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    )
    assert "counters-sqlite  2,000 increments  0" in counted.stdout
    timed = subprocess.run(
        [*command, "--only", "histories-redis"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    )
    assert timed.stdout.rstrip().endswith("0 failures")
    (row,) = (line for line in timed.stdout.splitlines() if line.startswith("histories-redis  "))
    assert int(row.split()[1].replace(",", "")) > 100


def test_a_schedule_that_fails_names_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads_are_stale(monkeypatch)
    (failure, *_) = crunch(Piece(BY_NAME["schedules"], 0, 20), "").failures
    assert "replay: python -m flowstate.testing.simulation " in failure


def test_a_program_that_fails_comes_with_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads_are_stale(monkeypatch)
    (failure,) = crunch(Piece(BY_NAME["programs-memory"], 3, 500), "").failures
    assert "replay: FLOWSTATE_TEST_PROGRAM='" in failure
    assert failure.endswith("python -m pytest tests/test_model.py -k some-memory")


def test_a_workflow_that_fails_names_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crashing, "given", lambda *_: 0)  # Not what plain Python is given.
    failures = crunch(Piece(BY_NAME["workflows"], 0, 20), "").failures
    assert len(failures) > 2
    assert "replay: python -m tests.soak --only workflows --seed " in failures[0]


def test_a_stage_that_has_had_its_time_does_no_more(tmp_path: Path) -> None:
    stage = Stage("counters-memory", "increments", 1_000, 1, part=1e-9)
    soak = Soak([stage], minutes=60, seed=1, amount=None, folder=tmp_path)
    asyncio.run(soak.run())
    (tally,) = soak.tallies
    assert 0 < tally.done <= 2
    assert (tally.wanted, tally.is_open) == (1_000, False)


def test_whatever_else_is_raised_becomes_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = Piece(BY_NAME["counters-sqlite"], 5, 40)
    (failure,) = crunch(piece, "/nowhere").failures
    command = "python -m tests.soak --only counters-sqlite --seed 5 --amount 40"
    assert failure.endswith(f"replay: {command}")


def test_the_table_joins_seeds_that_follow_each_other() -> None:
    tally = Tally(Stage("schedules", "schedules", 500, 100), 500)
    for first in (100, 0, 400):
        tally.add(first, first + 99, Outcome(100), 1.0)
    assert table([tally]).splitlines()[-1].endswith("0-199, 400-499")
    assert str(tally) == "schedules 300/500"
