"""Deterministic simulation: nothing is found in thousands of schedules, and planted bugs are."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from random import Random

import pytest

from flowstate import Engine, FlowRegistry
from flowstate.clock import FakeClock
from flowstate.driver import Liveness
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease
from flowstate.testcases.support import DriverWrapper
from flowstate.testing.simulation.schedules import Schedules, run_schedule, run_schedules
from flowstate.testing.simulation.world import World
from tests.planted_bugs import BUGS, Plant, tokens_are_ignored

PARTS = 20
A_PART = 250
# What the faults of so many schedules must have brought about, or they have shown nothing.
COVERAGE = {
    "begun again": 50,
    "cancelled client": 1,
    "cancelled flowstate": 1,
    "cancelled watch": 10,
    "checked operations": 20_000,
    "clock": 10,
    "compacted watchers": 1,
    "crash": 50,
    "crashed leaders": 10,
    "crashes after failures": 3,
    "clocks that were ahead": 10,
    "cut": 50,
    "damage": 10,
    "damaged revisions on pages": 10,
    "dead": 1,
    "delays fired": 100,
    "failures": 200,
    "failures after crashes": 3,
    "forgotten": 100,
    "given up": 20,
    "handed over": 10,
    "keys seen before": 50,
    "late requests": 100,
    "lost hints": 100,
    "lost replies": 100,
    "lost requests": 100,
    "messages acknowledged": 200,
    "messages taken from mailboxes": 30,
    "messages to those who wait": 50,
    "mismatches": 100,
    "pause": 50,
    "paused leaders": 10,
    "poked delays": 5,
    "poked timers": 3,
    "receives that timed out": 10,
    "reconnected watchers": 100,
    "resolved by token": 20,
    "retried attempts": 100,
    "runs crashed": 10,
    "runs of held delays": 100,
    "runs raised": 50,
    "runs stopped": 10,
    "second attempts": 20,
    "sent to on_failure": 30,
    "started elsewhere": 50,
    "store clock ahead": 3,
    "store clock back": 10,
    "superseded runs": 50,
    "takeovers": 150,
    "timeouts": 30,
    "timers fired": 100,
    "unknown outcomes": 10,
    "updates done": 200,
    "updates refused": 10,
    "updates that shared a revision": 20,
    "updates unknown": 10,
    "waits that found a state": 100,
    "waits that timed out": 3,
    "watchers that met damage": 1,
}
SEEDS_TO_FIND = 400


def check(schedules: Schedules) -> None:
    assert not schedules.failures, f"\n{schedules}"
    rare = {name: schedules.counts[name] for name in COVERAGE}
    assert all(rare[name] >= least for name, least in COVERAGE.items()), rare


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, PARTS))]
)
def test_5000_schedules(part: int) -> None:
    check(run_schedules(part * A_PART, A_PART))


def test_nothing_is_left_of_a_world() -> None:
    world = World(1481)  # A process of it is to start again when the end has come.
    world.run()
    assert asyncio.all_tasks(world.loop) == set()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_makes_the_same_world_again(seed: int) -> None:
    digest = run_schedule(seed).digest
    assert run_schedule(seed).digest == digest
    assert run_schedule(seed + 1).digest != digest
    for hash_seed in ("0", "1"):
        program = (
            "import sys; from flowstate.testing.simulation.schedules import run_schedule; "
            f"sys.stdout.write(run_schedule({seed}).digest)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert done.stdout == digest


async def test_a_standby_that_stood_still_takes_no_lease_by_an_old_reply() -> None:
    clock, flows = FakeClock(autojump=False), FlowRegistry()
    driver = MemoryDriver(clock)

    class ReadLate(DriverWrapper):
        late = 0.0

        async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
            found = await super().get_liveness(ids)
            clock.advance(self.late)
            return found

    late = ReadLate(driver)
    engine, other = Engine(driver, flows, clock=clock), Engine(late, flows, clock=clock)
    async with engine, other:
        holder, standby = Lease(engine, "x"), Lease(other, "x")
        holder._chance = standby._chance = Random(0)
        await holder._stand_by()
        for late.late in (0.0, 60.0):
            looking = asyncio.create_task(standby._stand_by())
            await asyncio.sleep(0.01)
            looking.cancel()
            assert not standby.is_held


def test_a_failure_names_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_are_ignored(monkeypatch)
    failures = run_schedules(0, 1)
    assert "python -m flowstate.testing.simulation 0" in str(failures)


def test_the_command_prints_the_trace_of_a_seed() -> None:
    command = [sys.executable, "-m", "flowstate.testing.simulation", "7"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    trace = run_schedule(7).trace
    assert trace[-1] in done.stdout.splitlines()
    assert not done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(SEEDS_TO_FIND):
        violations = run_schedule(seed).violations
        if violations:
            print(f"{bug.__name__}: found after {seed + 1} seeds: {violations[0]}")  # noqa: T201
            return
    pytest.fail(f"{SEEDS_TO_FIND} schedules have not found it")
