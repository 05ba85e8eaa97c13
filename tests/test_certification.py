"""The command that certifies a driver tells by its table and its exit status."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flowstate.clock import Clock
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities, MakeDriver
from flowstate.testcases.__main__ import main
from tests.broken import HalfDone

CAPABILITIES = Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True)


def make_memory() -> MakeDriver:
    """An empty memory store."""
    only: list[Driver] = []

    def make(clock: Clock) -> Driver:
        only.append(MemoryDriver(clock))
        return only[-1]

    return make


async def make_sqlite() -> MakeDriver:
    """An empty file; async, as what asks a server would be."""
    folder = Path(tempfile.mkdtemp())
    return lambda clock: SQLiteDriver(folder / "store.db", clock=clock)


def make_broken() -> MakeDriver:
    """A driver that must not pass."""
    return HalfDone


def test_a_good_driver_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{__name__}:make_memory", "-k", "delay"]) == 0
    out = capsys.readouterr().out
    assert "delays" in out
    assert "FAILED" not in out
    assert out.splitlines()[-1].split()[0] == "all"


def test_a_store_may_be_made_asynchronously() -> None:
    assert main([f"{__name__}:make_sqlite", "-k", "batch_"]) == 0


def test_a_broken_driver_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{__name__}:make_broken", "-v", "-k", "batch"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  batch_is_judged_in_order" in out
    assert "G1" in out
    assert "AssertionError" in out


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nothing", "is not of the form"),
        ("no.such.module:make", "cannot import"),
        ("json:make", "has no function"),
        ("json:dumps", "needs CAPABILITIES"),
        (f"{__name__}:make_memory", "none of the"),
    ],
)
def test_a_bad_target_is_explained(
    target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([target, "-k", "no such case"])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def test_it_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "flowstate.testcases", "--help"]
    assert "make_store" in subprocess.check_output(command, text=True)
