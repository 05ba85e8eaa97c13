"""A test that is to run alone does, and the others run beside each other."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[1]

TESTS = """
import time
from pathlib import Path
import pytest

JOURNAL = Path(__file__).with_name("journal")

def run():
    with JOURNAL.open("a") as journal:
        print("began", file=journal, flush=True)
    time.sleep(0.1)  # reason: others have the time to begin meanwhile
    with JOURNAL.open("a") as journal:
        print("ended", file=journal, flush=True)

@pytest.mark.parametrize("number", range(9))
def test_beside_others(number):
    run()

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_alone(number):
    with JOURNAL.open("a") as journal:
        print("alone", file=journal, flush=True)
    run()
"""
CONFTEST = """
from pathlib import Path
from tests import turns

turns.ROOM = Path(__file__)  # Not the ones of this very run.
turns.DOOR = turns.ROOM.with_name("test_turns.py")

def pytest_configure(config):
    config.addinivalue_line("markers", "alone: nothing else runs meanwhile")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(turns.Turns())
"""


def test_what_runs_alone_meets_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_turns.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-n3", "--dist=load", "-q", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "11 passed" in capfd.readouterr().out
    lines = (tmp_path / "journal").read_text().split()
    running = most = 0
    for place, line in enumerate(lines):
        if line == "alone":
            assert running == 0
            assert lines[place : place + 3] == ["alone", "began", "ended"]
        else:
            running += 1 if line == "began" else -1
            most = max(most, running)
    assert lines.count("alone") == 2
    assert most > 1
