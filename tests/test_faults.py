"""The fault tools do what they say, to real processes and to real file systems."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    State,
    StateContext,
    Status,
    SystemClock,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.testing import reached
from flowstate.testing.faults import SmallDisk, Worker, WrongClock

ECHO = """
import sys
print("ready", *sys.argv[1:], flush=True)
for line in sys.stdin:
    print("heard", line, end="", flush=True)
print("bye")
sys.exit(len(sys.argv) - 1)
"""
LATE = timedelta(hours=-1)
POLL = timedelta(minutes=1)
TWO_MEGABYTES = 2_000_000


@pytest.fixture
async def echo() -> AsyncIterator[Worker]:
    async with Worker("-c", ECHO, timeout=20.0) as worker:
        assert await worker.said("ready") == []
        yield worker


async def test_talks_and_finishes(echo: Worker) -> None:
    echo.tell("one two")
    assert await echo.line() == "heard one two"
    echo.tell("three")
    assert await echo.finish() == ["heard three", "bye"]
    assert echo.exit_code == 0
    with pytest.raises(EOFError, match="exit code 0"):
        await echo.line()


async def test_waits_for_a_word(echo: Worker) -> None:
    echo.tell("one")
    echo.tell("two")
    assert await echo.said("heard") == ["one"]
    with pytest.raises(EOFError):
        await asyncio.gather(echo.said("nothing"), echo.finish())


async def test_an_exit_code_is_an_error() -> None:
    async with Worker("-c", ECHO, 1, 2) as worker:
        assert await worker.line() == "ready 1 2"
        with pytest.raises(subprocess.CalledProcessError, match="exit status 2"):
            await worker.finish()


async def test_stops_and_goes_on() -> None:
    async with Worker("-c", ECHO, timeout=0.2) as worker:
        async with asyncio.timeout(20.0):
            while not await said_anything(worker):
                pass
        worker.stop()
        worker.tell("hello")
        assert worker.is_stopped
        with pytest.raises(TimeoutError):
            await worker.line()
        worker.go_on()
        async with asyncio.timeout(20.0):
            while not await said_anything(worker):
                pass


async def said_anything(worker: Worker) -> bool:
    with contextlib.suppress(TimeoutError):
        await worker.line()
        return True
    return False


async def test_kills_what_has_stopped(echo: Worker) -> None:
    echo.stop()
    echo.kill()

    assert await echo.ended() == -signal.SIGKILL
    with pytest.raises(EOFError):
        await echo.line()


async def test_its_exit_code_is_known_however_often_it_is_killed() -> None:
    codes = set()
    for _ in range(10):
        async with Worker("-c", ECHO) as worker:
            for _ in range(300):
                worker.kill()
            codes.add(await worker.ended())
    assert codes == {-signal.SIGKILL}


async def test_what_it_wrote_before_its_death_can_be_read() -> None:
    lines = "import time\nfor number in range(50_000): print(number, flush=True)\ntime.sleep(99)"
    async with Worker("-c", lines, timeout=60.0) as worker:
        await worker.said("49999")
        worker.kill()
        await worker.ended()
    async with Worker("-c", lines, timeout=60.0) as worker:
        assert await worker.line() == "0"
        worker.kill()
        seen = 1
        with contextlib.suppress(EOFError):
            while await worker.line() == f"{seen}":
                seen += 1
    assert worker.exit_code == -signal.SIGKILL


async def test_a_line_beyond_all_measure_ends_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstate.testing.faults.worker.LONGEST_LINE", 1_000)
    worker = Worker("-c", "print('x' * 100_000)", timeout=20.0)
    await worker.__aenter__()
    with pytest.raises(EOFError):
        await worker.line()
    with pytest.raises(ValueError, match="limit"):
        await worker.__aexit__(None, None, None)


async def test_is_killed_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Worker("-c", ECHO) as worker:
            raise ZeroDivisionError
    assert worker.exit_code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


async def test_its_errors_go_to_a_file_and_it_sees_its_own_world(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd(), os.environ['WORD']); sys.exit('went wrong')"
    log = tmp_path / "log"
    environment = {**os.environ, "WORD": "seen"}
    async with Worker("-c", program, folder=tmp_path, environment=environment, log=log) as worker:
        assert await worker.line() == f"{tmp_path} seen"
        assert await worker.ended() == 1
    assert log.read_text() == "went wrong\n"


def test_needs_to_be_entered() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        Worker("-c", ECHO).kill()


def test_a_small_disk_fills_up_and_can_grow(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk(folder, TWO_MEGABYTES))
        except PermissionError as error:
            pytest.skip(f"{error}")
        with pytest.raises(OSError, match="No space") as full:
            (folder / "file").write_bytes(bytes(2 * TWO_MEGABYTES))
        assert full.value.errno == errno.ENOSPC
        disk.resize(3 * TWO_MEGABYTES)
        (folder / "file").write_bytes(bytes(2 * TWO_MEGABYTES))
    assert not folder.exists()


def test_a_disk_that_cannot_be_mounted_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with pytest.raises(PermissionError), SmallDisk(folder, -1):
        pass
    assert not folder.exists()


async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


@pytest.mark.parametrize("error", [LATE, -LATE])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
async def test_delays_fire_by_the_clock_of_the_store(error: timedelta, rate: float) -> None:
    right = FakeClock()
    wrong = WrongClock(right, error=error, rate=rate)
    flows = FlowRegistry()
    flows.set("end", end)
    wait = timedelta(minutes=10)
    async with (
        Engine(MemoryDriver(right), flows, clock=wrong) as engine,
        Delayer(engine, poll_interval=POLL.total_seconds()),
    ):
        started = right.now()
        ctx = StateContext(State("state"))
        await engine.do(Commit(Delay(ctx, "end", after=wait)))
        state = await reached(engine, "state", Status.ENDED)

    assert state.committed_at is not None
    # A delayer that is slow sleeps too long; none is ever early.
    assert wait <= state.committed_at - started <= wait / min(rate, 1.0) + POLL


async def test_a_wrong_clock_is_set_and_runs_at_its_rate() -> None:
    right = FakeClock()
    clock = WrongClock(right, error=LATE, rate=4.0)
    began, moment = clock.now(), clock.monotonic()
    assert began - right.now() == LATE

    await clock.sleep(60.0)

    assert right.monotonic() == 15.0
    assert clock.monotonic() - moment == 60.0
    assert clock.now() - began == timedelta(seconds=60)
    clock.error = timedelta(0)
    assert clock.now() == right.now() + timedelta(seconds=45)


def test_a_wrong_clock_may_stand_on_the_real_one() -> None:
    clock = WrongClock(SystemClock(), error=LATE)

    with clock.working():
        assert abs(clock.monotonic() - time.monotonic()) < 5.0
        assert abs(SystemClock().now() - clock.now() + LATE) < timedelta(seconds=5)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_clock_cannot_stand_still_for_ever(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        WrongClock(SystemClock(), rate=rate)
