"""The demo, run as a newcomer runs it: on odd files, with the kill, again, and tampered with."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.repository, pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parent.parent
PYTHON_FILE = """
import os
from typing import Any

class Outer:
    class Inner:
        async def method(self): ...

if os:
    def one():
        def nested(): ...
else:
    try:
        import re
    finally:
        match os:
            case _:
                def two(): ...
"""

FIGURES = {
    "files": 14,
    "python": 6,
    "text": 2,
    "unparsable": 3,
    "binary": 1,
    "too large": 1,
    "unreadable": 1,
    "bytes": 5_639,
    "lines": 47,
    "functions": 8,
    "classes": 4,
    "imports": 8,
}

CRASH = """
import os, signal
from examples.ingest import __main__ as demo

run = demo._run_worker

def run_and_die(*arguments, **options):
    run(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

demo._run_worker = run_and_die
demo.main()
"""

TAMPER = """
import asyncio, sys
from pathlib import Path
from msgspec import json
from msgspec.structs import replace
from examples.ingest import __main__ as demo
from examples.ingest.flows import flows
from examples.ingest.measure import Figures
from flowstate import Commit, Data, Engine, StateContext, StoreData
from flowstate.drivers.sqlite import SQLiteDriver

async def tamper(database):
    async with Engine(SQLiteDriver(database), flows) as engine:
        ctx = StateContext(await engine.get_state("good.py"))
        figures = json.decode((await engine.get_data(ctx, "figures")).blob, type=Figures)
        ctx.data["figures"] = Data(json.encode(replace(figures, lines=figures.lines + 1)))
        await engine.do(Commit(StoreData(ctx, "figures")))

async def read_result(database):
    await tamper(database)
    return await honest(database)

honest, demo._read_result = demo._read_result, read_result
sys.exit(demo.main())
"""


def make_unreadable(path: Path) -> None:
    """A file that even root cannot read, where there is such a thing."""
    if Path("/proc/self/mem").exists():
        path.symlink_to("/proc/self/mem")
    else:
        path.touch(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good files, and everything that files can be beside good."""
    folder = tmp_path / "input"
    (folder / "deep" / "down").mkdir(parents=True)
    (folder / "good.py").write_text(PYTHON_FILE)
    (folder / "deep" / "down" / "text.txt").write_text("one\ntwo\nno newline")
    (folder / "empty.py").touch()
    (folder / "broken.py").write_text("def (:\n")
    (folder / "latin1.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    (folder / "not_utf8.py").write_bytes(b"x = '\xe9'\n")
    (folder / "too_deep.py").write_text("(" * 5_000)
    (folder / "binary.dat").write_bytes(b"\0" * 100)
    (folder / "huge.txt").write_bytes(b"x\n" * 2_000_000)
    (folder / "two words & $more #?%41.py").write_text("import os\n")
    long = folder / ("a" * 200) / ("b" * 200) / ("c" * 200)
    long.mkdir(parents=True)
    (long / "long.py").write_text("import os\n")
    make_unreadable(folder / "secret.txt")
    (folder / "loop").symlink_to("loop")
    (folder / "here").symlink_to(".", target_is_directory=True)
    (folder / "nowhere").symlink_to("nowhere else")
    (folder / "link.py").symlink_to("good.py")
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("named without Unicode\n")
    return folder


def run(*arguments: str | Path, program: str = "") -> tuple[int, str]:
    """Run the demo, or a program around it; return its exit status and all that it printed."""
    start = ["-c", program] if program else ["-m", "examples.ingest"]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def totals(printed: str) -> dict[str, tuple[int, int]]:
    """The rows of the table: what flowstate has, what the plain pass has."""
    rows = re.findall(r"^│ (.+?) +│ +([\d,]+) │ +([\d,]+) │$", printed, re.MULTILINE)
    return {
        name: (int(stored.replace(",", "")), int(plain.replace(",", "")))
        for name, stored, plain in rows
    }


def suggested(printed: str) -> list[str]:
    """The commands that the demo ends with."""
    return [line.strip() for line in printed.split("Look into it:\n")[1].splitlines()]


def test_goes_on_after_the_kill_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    status, printed = run(folder, "--database", tmp_path / "demo.db")

    assert status == 0, printed
    assert "Killed (SIGKILL)" in printed
    numbers = re.search(r"has (\d+) files: (\d+) done, (\d+) in flight .*, (\d+) left", printed)
    assert numbers is not None, printed
    total, done, redone, left = map(int, numbers.groups())
    assert (total, done) == (14, 7)
    assert redone + left == 7
    assert redone >= 1
    figures = totals(printed)
    assert {name: stored for name, (stored, _) in figures.items()} == FIGURES
    assert all(stored == plain for stored, plain in figures.values())


def test_does_without_the_kill(folder: Path, tmp_path: Path) -> None:
    status, printed = run(folder, "--database", tmp_path / "demo.db", "--no-crash")

    assert status == 0, printed
    assert "Killed" not in printed
    assert totals(printed)["files"] == (14, 14)


def test_replaces_a_finished_job_and_no_other_file(folder: Path, tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    assert run(folder, "--database", database, "--no-crash")[0] == 0
    (folder / "new.py").write_text("import os\n")

    status, printed = run(folder, "--database", database, "--workers", "1")
    foreign, refusal = run(folder, "--database", folder / "good.py")

    assert status == 0, printed
    assert "is replaced" in printed
    assert totals(printed)["files"] == (15, 15)
    assert foreign == 2, refusal
    assert (folder / "good.py").read_text() == PYTHON_FILE


def test_goes_on_with_an_unfinished_job_of_the_same_folder_only(
    folder: Path, tmp_path: Path
) -> None:
    database = tmp_path / "demo.db"
    assert run(folder, "--database", database, program=CRASH)[0] == -signal.SIGKILL

    other, refusal = run(folder / "deep", "--database", database)
    status, printed = run(folder, "--database", database, "--no-crash")

    assert other == 2, refusal
    assert status == 0, printed
    assert "Going on with the unfinished job" in printed
    assert "14 files: 7 done" in printed


@pytest.mark.parametrize("files", [0, 1])
def test_takes_folders_with_next_to_nothing_in_them(tmp_path: Path, files: int) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    for number in range(files):
        (folder / f"{number}.py").write_text("import os\n")

    status, printed = run(folder, "--database", folder / "demo.db")

    assert status == 0, printed
    assert ("Killed" in printed) == bool(files)
    assert totals(printed)["files"] == (files, files)
    for command in suggested(printed):
        subprocess.run(command, shell=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S602


def test_a_tampered_result_is_found(folder: Path, tmp_path: Path) -> None:
    status, printed = run(folder, "--database", tmp_path / "demo.db", program=TAMPER)

    assert status == 1
    assert "Not equal: 1 differ, 1 are doubled" in printed
    assert totals(printed)["lines"][0] == totals(printed)["lines"][1] + 1


def test_the_commands_it_prints_look_into_the_store(folder: Path, tmp_path: Path) -> None:
    _, printed = run(folder, "--database", tmp_path / "demo.db")

    shown = [
        subprocess.run(  # noqa: S602 - as a reader would paste it
            command, shell=True, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        for command in suggested(printed)
    ]

    states, history, data = shown
    assert states.count(" ended ") == 5
    assert [line.split()[4] for line in history.splitlines()] == [
        "start",
        "read",
        "measure",
        "finish",
        "finish",
    ]
    assert json.loads(data)["functions"] == 4
