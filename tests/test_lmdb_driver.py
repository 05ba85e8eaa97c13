"""The driver of the examples is certified, as that of a third party."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.lmdb_driver.target import CAPABILITIES, make_store
from flowstate.testcases import ALL, Case, run, select
from flowstate.testing.programs.programs import run_model

pytestmark = pytest.mark.repository
FOLDER = Path(__file__).parent.parent / "examples" / "lmdb_driver"
MOST_LINES = 450  # What the kit has spares the author of a driver from writing it again.
TARGET = "examples.lmdb_driver.target:make_store"


def test_it_is_small() -> None:
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")) <= MOST_LINES


@pytest.mark.slow
@pytest.mark.parametrize("case", select(ALL, CAPABILITIES), ids=repr)
async def test_conformance(case: Case) -> None:
    await run(case, make_store(), CAPABILITIES)


async def test_random_programs() -> None:
    await run_model(make_store, CAPABILITIES, steps=1_000, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_it_is_certified() -> None:
    command = [sys.executable, "-m", "flowstate.testcases", TARGET]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
