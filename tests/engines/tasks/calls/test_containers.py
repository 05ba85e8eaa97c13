"""Containers: what docker or podman is told, and what a real one does where it works."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowstate import FakeClock
from flowstate.engines.tasks.calls.processes import run_container
from flowstate.engines.tasks.calls.programs import Processes
from tests.engines.tasks.calls.calling import Caller, caller

# It records what it is told as a line of JSON, with the variables that it was given in a file.
RECORDER = """#!{python}
import json, os, sys
words = sys.argv[1:]
variables = open(words[words.index("--env-file") + 1]).read() if "--env-file" in words else ""
line = json.dumps([*words, variables]) + "\\n"
os.write(os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), line.encode())
if words[0] == "run":
    print("in:", sys.stdin.read())
    print(open({script!r}).read(), file=sys.stderr)
    if {code}: sys.exit({code})
"""


class Recorder:
    """A program that stands in for docker, and records how it is called."""

    def __init__(self, folder: Path, code: int = 0) -> None:
        self.program, self._log, said = folder / "docker", folder / "log", folder / "said"
        said.write_text("said")
        text = RECORDER.format(
            python=sys.executable, log=str(self._log), script=str(said), code=code
        )
        self.program.write_text(text)
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def processes(self, **options: Any) -> Processes:
        return Processes(container=True, programs={"container": str(self.program)}, **options)


def container(returns: str = "stdout", **more: Any) -> dict[str, Any]:
    return {"container": {"image": "tiny", **more}, "return": returns}


async def test_a_container_is_run_by_what_its_document_says(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    async with caller(processes=recorder.processes(volumes=[tmp_path])) as call:
        it = container(
            command="echo $1",
            arguments=["a b", 1],
            stdin={"x": 1},
            environment={"A": "x=y z", "B": 2},
            ports={"8080": 80},
            volumes={str(tmp_path): "/data:ro", "cache": "/cache"},
            pullPolicy="always",
        )
        assert await call(run_container, it) == 'in: {"x":1}\n'

    removed, told = recorder.calls
    name = told[told.index("--name") + 1]
    assert removed == ["rm", "--force", "--volumes", name, ""]
    assert name.startswith("calls-")
    assert name.endswith(".tests-theTask")
    assert told[:4] == ["run", "--interactive", "--name", name]
    assert told[6:] == [
        *("--pull", "always"),
        *("--publish", "8080:80"),
        *("--volume", f"{tmp_path}:/data:ro"),
        *("--volume", "cache:/cache"),
        *("--entrypoint", "/bin/sh"),
        *("--", "tiny", "-c", "echo $1", "sh", "a b", "1"),
        "A=x=y z\nB=2\n",
    ]


async def test_a_repeated_call_takes_the_place_of_what_a_crash_has_left(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    async with caller(processes=recorder.processes()) as call:
        await call(run_container, container())
        await call(run_container, container())
        await call(run_container, container(), key="another")

    names = [each[each.index("--name") + 1] for each in recorder.calls if each[0] == "run"]
    assert names[0] == names[1] != names[2]
    assert [each[3] for each in recorder.calls if each[0] == "rm"] == names


async def test_a_container_with_a_name_of_the_document_is_not_ours_to_remove(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path)
    async with caller(processes=recorder.processes()) as call:
        await call(run_container, container(name="mine"))

    assert [each[0] for each in recorder.calls] == ["run"]


async def test_variables_are_not_in_the_command_line(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    async with caller(processes=recorder.processes()) as call:
        await call(run_container, container(environment={"A": "hush"}))

    assert not any("hush" in word for word in recorder.calls[-1][:-1])


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"volumes": {"/": "/host"}}, "authorization"),
        ({"volumes": {"/etc": "/host"}}, "authorization"),
        ({"volumes": {"../x": "/host"}}, "authorization"),
        ({"volumes": {"~/x": "/host"}}, "authorization"),
        ({"volumes": {"{}/../x": "/host"}}, "authorization"),
        ({"volumes": {"{}/link": "/host"}}, "authorization"),
        ({"volumes": {"{}": "/x:rw,z"}}, "validation"),
        ({"volumes": {"{}:/a": "/x"}}, "validation"),
        ({"environment": {"A": "x\nB=y"}}, "validation"),
        ({"environment": {"A=1\nB": "y"}}, "validation"),
    ],
)
async def test_what_a_container_may_not_have_is_refused(
    tmp_path: Path, more: dict[str, dict[str, str]], kind: str
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    recorder = Recorder(tmp_path)
    given: dict[str, Any] = {
        key: {name.format(tmp_path): value for name, value in each.items()}
        for key, each in more.items()
    }
    async with caller(processes=recorder.processes(volumes=[tmp_path])) as call:
        assert (await call.refused(run_container, container(**given)))[0] == kind
    assert not (tmp_path / "log").exists(), "no program was run"


async def test_an_image_is_never_an_option(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    async with caller(processes=recorder.processes()) as call:
        it = container()
        it["container"]["image"] = "--privileged"
        await call(run_container, it)

    assert recorder.calls[-1][-3:-1] == ["--", "--privileged"]


@pytest.mark.parametrize("cleanup", ["always", "never", "eventually"])
async def test_a_container_is_removed_when_its_lifetime_says_so(
    tmp_path: Path, cleanup: str
) -> None:
    recorder, clock = Recorder(tmp_path), FakeClock(autojump=False)
    lifetime: dict[str, Any] = {"cleanup": cleanup}
    if cleanup == "eventually":
        lifetime["after"] = {"minutes": 5}
    async with caller(processes=recorder.processes(), clock=clock) as call:
        await call(run_container, container(name="mine", lifetime=lifetime))
        assert len(call.call.runtime.processes._left) == (cleanup != "never")
        if cleanup == "eventually":
            await asyncio.sleep(0.05)  # reason: nothing tells that something did not happen
            assert len(recorder.calls) == 1
            clock.advance(300.0)
        await asyncio.gather(*call.call.runtime.processes._left)

    removed = [] if cleanup == "never" else [["rm", "--force", "--volumes", "mine", ""]]
    assert recorder.calls[1:] == removed


async def test_a_container_is_removed_at_once_when_too_many_are_to_be_removed_later(
    tmp_path: Path,
) -> None:
    recorder, clock = Recorder(tmp_path), FakeClock(autojump=False)
    lifetime = {"cleanup": "eventually", "after": {"minutes": 5}}
    async with caller(processes=recorder.processes(most_left=1), clock=clock) as call:
        for name in ("one", "two"):
            answer = await call(run_container, container(name=name, lifetime=lifetime))
            assert answer.startswith("in:")
    assert recorder.calls[2:] == [["rm", "--force", "--volumes", "two", ""]]


@pytest.mark.parametrize(("code", "status"), [(125, 500), (3, 500)])
async def test_a_container_that_fails_says_why(tmp_path: Path, code: int, status: int) -> None:
    async with caller(processes=Recorder(tmp_path, code).processes()) as call:
        kind, was, detail = await call.refused(run_container, container())

    assert (kind, was) == ("runtime", status)
    assert "said" in detail


async def test_a_container_that_was_never_started_is_an_error_whatever_is_asked_for(
    tmp_path: Path,
) -> None:
    async with caller(processes=Recorder(tmp_path, 125).processes()) as call:
        assert (await call.refused(run_container, container("code")))[0] == "runtime"


REAL = """#!/bin/sh
export CONTAINERS_CONF={folder}/containers.conf
exec {program} "$@"
"""
# What a container inside of a container needs.
CONFIGURATION = """[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that really runs containers, of an image named ``localhost/flowstate-tiny``."""
    folder = tmp_path_factory.mktemp("containers")
    found = shutil.which("podman")
    box = Path("/bin/busybox")
    if found is None or not box.exists():
        pytest.skip("needs podman and busybox")
    (folder / "containers.conf").write_text(CONFIGURATION)
    program = folder / "podman"
    program.write_text(REAL.format(folder=folder, program=found))
    program.chmod(0o700)
    with tarfile.open(folder / "image.tar", "w") as tar:
        tar.add(box, "bin/busybox")
        for name in ("sh", "cat", "echo", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    image = "localhost/flowstate-tiny"
    for words in (
        ["import", str(folder / "image.tar"), image],
        ["run", "--rm", image, "/bin/echo"],
    ):
        if subprocess.run([program, *words], capture_output=True, check=False).returncode:
            pytest.skip("podman does not work here")
    return str(program)


@pytest.fixture
async def really(real: str) -> AsyncIterator[Caller]:
    options: dict[str, Any] = {"programs": {"container": real}, "container": True}
    async with caller(processes=Processes(**options, seconds=20.0)) as call:
        yield call


TINY = {"image": "localhost/flowstate-tiny", "pullPolicy": "never"}
ALWAYS = {"lifetime": {"cleanup": "always"}}


def names(program: str) -> str:
    words = [program, "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout


@pytest.mark.slow
async def test_a_real_container_runs(really: Caller, real: str, tmp_path: Path) -> None:
    command = 'input=$(cat)\necho "$input $1 $2 $A"\nexit 4'
    it = {**TINY, **ALWAYS, "command": command, "stdin": "in", "arguments": ["x y", "z"]}
    it["environment"] = {"A": "b c", "PATH": "/bin"}

    answer = await really(run_container, {"container": it, "return": "all"})
    assert answer == {"code": 4, "stdout": "in x y z b c\n", "stderr": ""}
    await asyncio.gather(*really.call.runtime.processes._left)
    assert "theTask" not in names(real)


@pytest.mark.slow
async def test_a_real_container_is_gone_when_its_call_is_cancelled(
    really: Caller, real: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    really.call.runtime.processes.volumes = [tmp_path]
    command = "echo up > /shared/fifo; sleep 1000"
    it = {**TINY, "command": command, "volumes": {str(tmp_path): "/shared"}}
    it["environment"] = {"PATH": "/bin"}
    task = asyncio.create_task(really(run_container, {"container": it}))
    assert await asyncio.to_thread(fifo.read_text) == "up\n"
    assert "theTask" in names(real)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert "theTask" not in names(real)


@pytest.mark.slow
async def test_a_real_image_that_is_not_there_is_an_error(really: Caller) -> None:
    it = {"image": "localhost/no-such-image", "pullPolicy": "never"}
    kind, _, detail = await really.refused(run_container, {"container": it, "return": "code"})

    assert kind == "runtime"
    assert detail.startswith("no container: ")
