"""Runs measure, write what their README says, and can be compared."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import msgspec
import pytest
from matplotlib.image import imread

from benchmarks.__main__ import main
from benchmarks.output import write_report
from benchmarks.records import Record, RecordsError, load, save
from benchmarks.sizes import TINY
from tests.benchmarks.records import record, side, workload
from tests.redis_servers import RedisLike
from tests.servers import Postgres

pytestmark = [pytest.mark.repository, pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parent.parent.parent
OWN = "tests.benchmarks.suite"
SLOW = """
_commit = MemoryDriver.commit

async def _slow(*args, **kwargs):
    sum(range(10_000))
    return await _commit(*args, **kwargs)

MemoryDriver.commit = _slow
"""
SUITES = ("commits", "watching", "growth")
# What a shell starts in the background ignores interruptions, and so does all that this starts.
INTERRUPTIBLE = """
import signal, sys
from benchmarks.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
Captured = pytest.CaptureFixture[str]
PICTURES = {"concurrency.png", "growth.png", "fan-out.png", "peers.png"}


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=140,
    )


def keys(found: Record) -> list[str]:
    return [measured.key for measured in found.workloads]


def assert_draws_in_grey(path: Path) -> None:
    pixels = imread(path)

    assert min(pixels.shape[:2]) > 100
    assert pixels[..., :3].std() > 0.02
    assert float(abs(pixels[..., 0] - pixels[..., 2]).max()) == 0.0


def slow_checkout(path: Path) -> Path:
    """A copy of this checkout whose driver in memory burns time in each commit."""
    for name in ("flowstate", "drivers", "recovery", "testcases", "testing"):
        shutil.copytree(ROOT / name, path / name, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", path)
    with (path / "drivers" / "memory" / "__init__.py").open("a") as module:
        module.write(SLOW)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run of the suite of these tests."""
    output = tmp_path_factory.mktemp("own") / "made"
    done = run("tiny", "--suite", f"{OWN}:workloads", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "memory: delivery" in done.stdout
    assert "NOT MET" in done.stdout
    return output


def test_a_run_on_every_store(tmp_path: Path, postgres: Postgres, redis_server: RedisLike) -> None:
    servers = {
        "FLOWSTATE_TEST_POSTGRES_URL": postgres.url(),
        "FLOWSTATE_TEST_REDIS_URL": redis_server.url(),
    }

    chosen = [
        word for name in SUITES for word in ("--suite", f"benchmarks.suites.{name}:workloads")
    ]

    done = run("tiny", *chosen, "--output", tmp_path, **servers)

    assert done.returncode == 0, done.stderr
    found = load(tmp_path / "results.json")
    assert {found.store for found in found.workloads} >= {"memory", "sqlite", "postgres", "redis"}
    sides = [one for measured in found.workloads for one in measured.sides]
    assert [one.name for one in sides if len(one.samples) != 1] == []
    assert all(sample.value > 0 for one in sides for sample in one.samples)
    assert set(found.settings.servers) == {"postgres", "redis"}
    text = (tmp_path / "report.md").read_text()
    assert [found.name for found in found.workloads if found.name not in text] == []
    for name in PICTURES - {"peers.png"}:
        assert_draws_in_grey(tmp_path / name)


def test_a_run_writes_every_sample_and_every_picture(own: Path) -> None:
    found = load(own / "results.json")

    assert {path.name for path in own.iterdir()} == PICTURES | {"results.json", "report.md"}
    sides = [one for measured in found.workloads for one in measured.sides]
    assert {len(one.samples) for one in sides if one.problem is None} == {1}
    assert {len(measured.rounds) for measured in found.workloads} == {1}
    assert found.settings.sizes["name"] == "tiny"
    assert found.versions["flowstate"].startswith("0.")
    assert found.machine["cores"] >= 1
    for name in PICTURES:
        assert_draws_in_grey(own / name)


def test_the_results_follow_their_schema(own: Path, capsys: Captured) -> None:
    strict = msgspec.json.decode((own / "results.json").read_bytes(), type=Record)
    assert main(["schema"]) == 0
    schema = msgspec.json.decode(capsys.readouterr().out)

    assert strict.schema == 2
    assert set(schema["$defs"]["Record"]["required"]) == set(msgspec.to_builtins(strict))


def test_a_peer_that_is_not_installed_is_no_failure(own: Path) -> None:
    absent = load(own / "results.json").workloads[-1].sides[-1]

    assert absent.problem is not None
    assert absent.problem.kind == "not installed"
    assert "absent is not installed" in (own / "report.md").read_text()


def test_the_report_can_be_written_again(own: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes((own / "results.json").read_bytes())

    assert main(["report", str(tmp_path / "results.json")]) == 0

    assert (tmp_path / "report.md").read_text() == (own / "report.md").read_text()


def test_what_was_measured_until_an_interruption_is_kept(tmp_path: Path) -> None:
    done = run("tiny", "--suite", f"{OWN}:interrupted", "--output", tmp_path)

    assert done.returncode == 130
    assert f"interrupted; what came out so far is in {tmp_path}" in done.stderr
    assert keys(load(tmp_path / "results.json")) == ["memory: done"]
    assert main(["report", str(tmp_path / "results.json")]) == 0


def test_a_failure_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    done = run("tiny", "--suite", f"{OWN}:broken", "--output", tmp_path)

    half, whole = load(tmp_path / "results.json").workloads
    assert done.returncode == 1
    assert "failed: memory: half, bad: RuntimeError: this side fails" in done.stderr
    assert "failed: RuntimeError: this side fails" in (tmp_path / "report.md").read_text()
    assert len(half.ours.samples) == 1
    assert whole.ours.problem is not None
    assert len(whole.others[0].samples) == 1


def test_lists_what_there_is(capsys: Captured) -> None:
    assert main(["list", "--suite", f"{OWN}:workloads", "--only", "peers"]) == 0

    printed = capsys.readouterr().out
    assert printed.splitlines() == ["memory: peers", "    peer: sqlite3", "    peer: absent"]


def test_an_unknown_suite_is_an_error(capsys: Captured) -> None:
    assert main(["list", "--suite", f"{OWN}:nowhere"]) == 2

    assert "nowhere" in capsys.readouterr().err


def test_comparing_runs_fails_only_when_asked_to(tmp_path: Path, capsys: Captured) -> None:
    for name, value in (("old", 1.0), ("new", 2.0)):
        limit = side([1.0] * 9, "bare")
        save(tmp_path / name, record(workload(side([value] * 9), limit)))

    command = ["compare", str(tmp_path / "old"), str(tmp_path / "new")]
    assert main(command) == 0
    assert "slower: time by the limit's +100.0 %" in capsys.readouterr().out
    assert main([*command, "--fail-on-slower", "50"]) == 1
    assert main([*command, "--fail-on-slower", "150"]) == 0


@pytest.mark.parametrize("content", [b"{", b'{"schema": 1}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)

    with pytest.raises(RecordsError, match=r"results\.json"):
        load(path)


def test_pairs_two_checkouts_round_by_round(tmp_path: Path) -> None:
    slow = slow_checkout(tmp_path / "slow")
    output = tmp_path / "output"

    done = run(
        *("pair", slow, "--size", "tiny", "--suite", f"{OWN}:workloads"),
        *("--only", "tasks", "--output", output),
    )

    assert done.returncode == 0, done.stderr
    old, new = (load(output / name / "results.json") for name in ("old", "new"))
    assert old.settings.pair == new.settings.pair != ""
    assert (
        keys(old)
        == keys(new)
        == [f"memory: commits, {tasks} tasks" for tasks in TINY.concurrencies]
    )
    assert "time in the same rounds" in done.stdout
    for before, after in zip(old.workloads, new.workloads, strict=True):
        assert before.ours.samples[0].value > 2 * after.ours.samples[0].value


def test_a_pair_shares_servers_that_outlive_both(tmp_path: Path) -> None:
    alone = {"FLOWSTATE_TEST_POSTGRES_URL": "", "FLOWSTATE_TEST_REDIS_URL": ""}

    done = run(
        *("pair", ROOT, "--size", "tiny", "--suite", f"{OWN}:on_a_server", "--output", tmp_path),
        **alone,
    )

    assert done.returncode == 0, done.stderr
    servers = [load(tmp_path / name / "results.json").settings.servers for name in ("old", "new")]
    assert servers[0] == servers[1]
    assert servers[0]["redis"]["appendfsync"] == "always"
    assert "statements 1" in done.stdout


def test_a_folder_without_a_checkout_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    assert main(["pair", str(tmp_path), "--size", "tiny", "--suite", f"{OWN}:workloads"]) == 2

    assert "no checkout" in capsys.readouterr().err


def test_pictures_leave_the_settings_of_matplotlib_alone(own: Path) -> None:
    before = dict(mpl.rcParams)

    write_report(own, load(own / "results.json"))

    assert dict(mpl.rcParams) == before
