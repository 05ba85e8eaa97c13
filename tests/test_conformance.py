"""The conformance suite on the drivers that need no server."""

from pathlib import Path

import pytest

from flowstate import Clock
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import ALL, Capabilities, Case, MakeDriver, run, select

CAPABILITIES = {
    "memory": Capabilities(shared=False, durable=False, fake_clock=True),
    "sqlite": Capabilities(shared=True, durable=True, fake_clock=True),
}


def maker(driver: str, folder: Path) -> MakeDriver:
    if driver == "memory":
        return MemoryDriver

    def make_sqlite(clock: Clock) -> SQLiteDriver:
        return SQLiteDriver(folder / "store.db", clock=clock)

    return make_sqlite


@pytest.mark.parametrize(
    ("driver", "case"),
    [
        pytest.param(driver, case, id=f"{driver}-{case.name}")
        for driver, capabilities in CAPABILITIES.items()
        for case in select(ALL, capabilities)
    ],
)
async def test_conformance(driver: str, case: Case, tmp_path: Path) -> None:
    await run(case, maker(driver, tmp_path), CAPABILITIES[driver])


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in ALL]

    assert sorted(names) == sorted(set(names))


def test_every_case_names_its_guarantee() -> None:
    assert [case.name for case in ALL if not case.guarantees.startswith("G")] == []
