"""SIGTERM and Ctrl-C while commits are on their way and flows run, also in threads."""

import asyncio
import signal
import subprocess
import time

import pytest

from flowstate import Engine, FlowRegistry
from tests.world.places import ROOT, Place, command

LIMIT = 12.0
ENOUGH = 200


def interrupted(place: Place, how: str, times: int) -> tuple[int, float, set[str], str]:
    """Return the exit code, how many seconds it took, what was acknowledged, and what was said."""
    with subprocess.Popen(
        command("interrupted", place, how),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(ENOUGH)]
        began = time.monotonic()
        for _ in range(times):
            process.send_signal(signal.Signals[how])
            time.sleep(0.3)
        try:
            rest, errors = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        took = time.monotonic() - began
    return process.returncode, took, {*told, *rest.split()}, errors


async def stored(place: Place) -> set[str]:
    async with Engine(place.driver(), FlowRegistry()) as engine:
        return {state.id async for state in engine.states()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_once(place: Place, how: str) -> None:
    code, took, acknowledged, errors = interrupted(place, how, 1)
    assert code == 3, errors
    assert took < LIMIT / 2
    assert acknowledged <= asyncio.run(stored(place))
    # Of the flow in a thread and what was handed over it may speak, but not of tracebacks.
    assert "Traceback" not in errors
    assert "never retrieved" not in errors


@pytest.mark.slow
def test_ctrl_c_by_someone_who_is_in_a_hurry(place: Place) -> None:
    code, took, acknowledged, _ = interrupted(place, "SIGINT", 3)
    assert code != 0
    assert took < LIMIT
    assert acknowledged <= asyncio.run(stored(place))


def test_kill(place: Place) -> None:
    code, _, acknowledged, _ = interrupted(place, "SIGKILL", 1)
    assert code == -signal.SIGKILL
    acknowledged = {id for id in acknowledged if id[0].isdigit() and "-" in id}
    # The last line may be cut off.
    assert len(acknowledged - asyncio.run(stored(place))) <= 1
