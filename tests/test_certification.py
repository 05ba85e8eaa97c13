"""The command that certifies a driver tells by its table and its exit status."""

import asyncio
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import Driver, Heartbeat, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities, MakeDriver, layers
from flowstate.testcases.__main__ import main
from tests.broken import BROKEN, Base

CAPABILITIES = Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True)
HERE = sys.modules[__name__]

Out = pytest.CaptureFixture[str]


def make_memory() -> MakeDriver:
    """An empty memory store."""
    return MemoryDriver


def make_driver(clock: Clock) -> Driver:
    """A driver object instead of a store."""
    return MemoryDriver(clock)


async def make_asynchronously() -> MakeDriver:
    """As what asks a server would be."""
    await asyncio.sleep(0)  # reason: a coroutine that never waits shows little
    return MemoryDriver


class RoundedBeats(Base):
    """Keeps milliseconds of how long a heartbeat holds."""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        rounded = [
            replace(beat, seconds=None if beat.seconds is None else round(beat.seconds, 3))
            for beat in heartbeats
        ]
        return await super().beat(rounded)


class SlowUpload(Base):
    """Judges a commit, stores its data somewhere else, and does not judge again after that."""

    async def commit_one(self, writes: Writes) -> Verdict:
        if not writes.data or await self._latest_of(writes) != [put.rev for put in writes.puts]:
            return await self.apply(writes)
        for _ in range(5):
            await asyncio.sleep(0)  # reason: others commit meanwhile
        revs = await self._latest_of(writes)
        puts = [replace(put, rev=rev) for put, rev in zip(writes.puts, revs, strict=True)]
        return await self.apply(replace(writes, puts=tuple(puts)))

    async def _latest_of(self, writes: Writes) -> list[int]:
        found = [await self.get_state(put.id) for put in writes.puts]
        return [state.rev if state else 0 for state in found]


MADE: tuple[type[Base], ...] = (*BROKEN, RoundedBeats, SlowUpload)
for kind in MADE:
    globals()[f"make_{kind.__name__}"] = lambda kind=kind: kind


def certified(target: str, *options: str) -> int:
    return main([f"{__name__}:{target}", *options])


def rows(out: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return passed, failed and not needed, by layer and theme."""
    found = re.findall(r"^(\w+)  +(\S[\w ]*?)  +(\d+)  +(\d+)  +(\d+)  +[\d.]+$", out, re.MULTILINE)
    return {(row[0], row[1]): (int(row[2]), int(row[3]), int(row[4])) for row in found}


def failed_layers(out: str) -> set[str]:
    return {layer for (layer, _), (_, failed, _) in rows(out).items() if failed}


# Good drivers


def test_memory_passes_each_layer(capsys: Out) -> None:
    assert certified("make_memory", "--only", "conformance", "-k", "cancelled") == 0
    assert rows(capsys.readouterr().out)["conformance", "cancelling"] == (8, 0, 0)
    assert certified("make_memory", "--only", "model", "--steps", "600") == 0
    assert rows(capsys.readouterr().out) == {("model", "random programs"): (3, 0, 0)}
    assert certified("make_memory", "--only", "concurrency") == 0
    out = capsys.readouterr().out
    assert rows(out) == {
        ("concurrency", "recorded loads"): (1, 0, 2),
        ("concurrency", "cancelled commits"): (1, 0, 1),
    }
    assert "FAILED" not in out
    assert out.splitlines()[-1].split()[:4] == ["all", "2", "0", "3"]


def test_sqlite_passes_each_layer(capsys: Out, tmp_path: Path) -> None:
    (tmp_path / "sqlite_target.py").write_text(SQLITE)
    command = [sys.executable, "-m", "flowstate.testcases", "sqlite_target:make_store", "-v"]
    sizes = ["--steps", "300", "--operations", "400"]
    for options in (["--only", "model"], ["--only", "concurrency"], ["-k", "batch_"]):
        printed = subprocess.check_output([*command, *sizes, *options], cwd=tmp_path, text=True)
        assert "left out" not in printed
        assert failed_layers(printed) == set()
        assert "passed  processes" in printed or "concurrency" not in options


SQLITE = """
import tempfile
from functools import partial
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities

CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=True, any_loop=True)

def open_store(path, clock):
    return SQLiteDriver(path, clock=clock, synchronous="NORMAL")

async def make_store():
    return partial(open_store, f"{tempfile.mkdtemp()}/store.db")
"""


def make_closure() -> MakeDriver:
    """What no other process can be given."""
    path = Path(tempfile.mkdtemp()) / "store.db"
    return lambda clock: SQLiteDriver(path, clock=clock)


def test_what_other_processes_cannot_have_is_told(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HERE, "CAPABILITIES", replace(CAPABILITIES, shared=True))
    assert certified("make_closure", "-v", "-k", "processes", "--only", "concurrency") == 0
    out = capsys.readouterr().out
    assert "left out  processes: what makes the drivers: it cannot be pickled" in out
    assert rows(out) == {("concurrency", "recorded loads"): (0, 0, 1)}


def test_it_needs_no_test_framework() -> None:
    program = (
        "import sys; from flowstate.testcases.__main__ import main;"
        "memory = ['flowstate.drivers.memory:MemoryDriver', '--operations', '40', '--steps', '20'];"
        "main([*memory, '-k', 'batch_is']); main([*memory, '-k', 'm_1']);"
        "main([*memory, '-k', 's_on']); print({'hypothesis', 'pytest'} & set(sys.modules))"
    )
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert printed.splitlines()[-1] == "set()"
    assert {layer for layer, _ in rows(printed)} == {"conformance", "model", "concurrency"}


# Broken drivers


@pytest.mark.parametrize(
    ("broken", "options", "message"),
    [
        ("HalfDone", ["-k", "batch_is"], "G1"),
        ("Unchecked", ["-k", "tasks_on_one"], "lost update"),
        ("Holes", ["-k", "tasks_on_one"], "G4"),
        ("StaleReads", ["--only", "model"], "--program '"),
        ("EarlyDelays", ["--only", "model"], "--program '"),
        ("SkippingPages", ["--only", "concurrency"], "G5"),
        ("LostReply", ["-k", "cancelled_commits"], "G8 .* a commit that failed is in the log"),
        ("StuckLock", ["-k", "cancelled_commits"], "nothing has happened for"),
    ],
)
def test_a_broken_driver_fails(
    broken: str, options: list[str], message: str, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "STILL", 2.0)
    assert certified(f"make_{broken}", *options) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert re.search(message, out)


@pytest.mark.parametrize(
    ("broken", "layer", "other"),
    [("RoundedBeats", "model", "concurrency"), ("SlowUpload", "concurrency", "model")],
)
def test_one_layer_finds_what_another_does_not(
    broken: str, layer: str, other: str, capsys: Out
) -> None:
    """The cases do not find these either, but they take half a minute."""
    for only, status in ((layer, 1), (other, 0)):
        assert certified(f"make_{broken}", "--steps", "500", "--only", only) == status
        assert failed_layers(capsys.readouterr().out) == ({layer} if status else set())


def test_a_failing_program_can_be_replayed(capsys: Out) -> None:
    assert certified("make_RoundedBeats", "--only", "model") == 1
    program = re.findall(r"--program '(.*)'", capsys.readouterr().out)[0]

    assert len(program.split()) < 10
    assert certified("make_RoundedBeats", "--program", program) == 1
    assert certified("make_memory", "--program", program) == 0


def test_the_seed_decides_the_programs(capsys: Out) -> None:
    told = []
    for seed in ("5", "5", "6"):
        assert certified("make_StaleReads", "--only", "model", "--seed", seed) == 1
        told.append(re.findall(r"--program '(.*)'", capsys.readouterr().out)[0])
    assert told[0] == told[1] != told[2]


def test_a_failing_case_is_told_with_its_traceback(capsys: Out) -> None:
    assert certified("make_HalfDone", "-v", "-k", "batch") == 1
    out = capsys.readouterr().out
    assert "FAILED  batch_is_judged_in_order" in out
    assert "G1" in out
    assert "Traceback" in out
    assert "AssertionError" in out
    assert "passed  claims_in_one_batch" in out


# Targets


@pytest.mark.parametrize(
    "target",
    [
        f"{__name__}:make_memory",
        f"{__name__}:make_asynchronously",
        f"{__name__}:make_driver",
        f"{__name__}:MemoryDriver",
        "flowstate.drivers.memory:MemoryDriver",
    ],
)
def test_a_target_takes_several_forms(target: str, capsys: Out) -> None:
    assert main([target, "-k", "_1", "--steps", "100"]) == 0
    assert main([target, "-k", "delay_"]) == 0
    assert sum(passed for passed, _, _ in rows(capsys.readouterr().out).values()) > 5


def make_nothing() -> None:
    """Forgets to return something."""


def make_failing() -> MakeDriver:
    """Finds no server."""
    raise OSError("no server")


def make_same(clock: Clock, made: list[Driver] = []) -> Driver:  # noqa: B006 - the fault
    """The same store again and again."""
    made.append(MemoryDriver(clock))
    return made[0]


def make_from(url: str, clock: Clock) -> Driver:
    """Needs to know where."""
    return SQLiteDriver(url, clock=clock)


async def make_driver_asynchronously(clock: Clock) -> Driver:
    """A driver, but one has to wait for it."""
    return MemoryDriver(clock)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nothing", "is not of the form"),
        ("no.such.module:make", "cannot import"),
        ("json:make", "has no function"),
        ("json:dumps", "json:dumps fails: TypeError"),
        ("time:time", "no driver and no function"),
        (f"{__name__}:make_nothing", "returned None"),
        (f"{__name__}:make_failing", "fails: OSError: no server"),
        (f"{__name__}:make_same", "on one store, or one that is not empty"),
        (f"{__name__}:make_from", "takes more than a clock"),
        (f"{__name__}:make_driver_asynchronously", "no driver and no function"),
        (f"{__name__}:make_memory", "none of the"),
    ],
)
def test_a_bad_target_is_explained(target: str, reason: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as stop:
        main([target, "-k", "no such case"])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def test_capabilities_decide_which_targets_are_good(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HERE, "CAPABILITIES", replace(CAPABILITIES, shared=True))
    with pytest.raises(SystemExit):
        certified("make_driver")
    assert "makes one driver object for each store" in capsys.readouterr().err
    monkeypatch.delattr(HERE, "CAPABILITIES")
    with pytest.raises(SystemExit):
        certified("make_memory")
    assert "needs CAPABILITIES" in capsys.readouterr().err
    assert certified("make_driver", "-k", "batch_") == 0


@pytest.mark.parametrize("program", ["", "step", "step:x", "no_such_step:1"])
def test_a_bad_program_is_explained(program: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as stop:
        certified("make_memory", "--program", program)
    assert stop.value.code == 2
    assert "is no program" in capsys.readouterr().err


# The command


def test_it_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "flowstate.testcases", "--help"]
    assert "make_store" in subprocess.check_output(command, text=True)


def test_a_terminal_sees_how_far_it_is() -> None:
    program = [sys.executable, "-m", "flowstate.testcases"]
    command = [*program, "flowstate.drivers.memory:MemoryDriver", "-k", "batch_is"]
    leader, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [*command, "-k", "batch_is"],
            check=True,
            capture_output=False,
            stdout=-1,
            stderr=terminal,
        )
        told = os.read(leader, 10_000).decode()
    finally:
        os.close(leader)
        os.close(terminal)
    assert "1/1 batch_is_judged_in_order" in told
    assert told.endswith("\r")
    assert b"\r" not in done.stdout
    assert b"conformance" in done.stdout
