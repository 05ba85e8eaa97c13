"""Programs run only where that is allowed, within bounds, and end with all that they started."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.tasks.calls.processes import run_container, run_script, run_shell
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.service.running import tasks_on

ALL: dict[str, Any] = {"shell": True, "script": True}


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    async with caller(processes=Processes(**ALL)) as opened:
        yield opened


def shell(command: str, returns: str = "stdout", **more: Any) -> dict[str, Any]:
    return {"shell": {"command": command, **more}, "return": returns}


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def ended(pid: int) -> None:
    """Wait until a process has ended, which need not be a child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, gone.set)
    try:
        await asyncio.wait_for(gone.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


@pytest.mark.parametrize(
    ("function", "kind"),
    [(run_shell, "shell"), (run_script, "script"), (run_container, "container")],
)
async def test_all_is_switched_off_at_first(function: Any, kind: str) -> None:
    it = {"command": "true", "language": "python", "code": "", "image": "x"}
    async with caller() as call:
        assert await call.refused(function, {kind: it}) == (
            "authorization",
            403,
            f"{kind} is switched off in this runtime",
        )


@pytest.mark.parametrize(
    ("returns", "answer"),
    [
        ("stdout", "out\n"),
        ("stderr", "err\n"),
        ("code", 0),
        ("all", {"code": 0, "stdout": "out\n", "stderr": "err\n"}),
        ("none", None),
    ],
)
async def test_a_command_returns_what_was_asked_for(
    call: Caller, returns: str, answer: Any
) -> None:
    assert await call(run_shell, shell("echo out; echo err >&2", returns)) == answer


async def test_stdin_arguments_and_environment_are_given(call: Caller) -> None:
    command = 'echo "$(cat) $0 $1 $2 $COLOUR"'
    more: dict[str, Any] = {
        "stdin": "in",
        "arguments": ["a b", 5],
        "environment": {"COLOUR": {"x": [1]}},
    }

    assert await call(run_shell, shell(command, **more)) == 'in sh a b 5 {"x":[1]}\n'


async def test_an_object_is_given_to_stdin_as_json(call: Caller) -> None:
    assert await call(run_shell, shell("cat", stdin={"a": [1, None]})) == '{"a":[1,null]}'


async def test_arguments_are_never_read_as_commands(call: Caller) -> None:
    text = "'; echo no; $(echo no) `echo no` \" \n*"

    assert await call(run_shell, shell('printf %s "$1"', arguments=[text])) == text


async def test_only_the_path_is_inherited(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "hush")

    text = await call(run_shell, shell("/usr/bin/env", environment={"MINE": "1"}))

    assert {line.partition("=")[0] for line in text.splitlines()} - {"PWD", "SHLVL", "_"} == {
        "PATH",
        "MINE",
    }


async def test_a_run_has_a_folder_of_its_own_for_its_time(call: Caller) -> None:
    folder = (await call(run_shell, shell("pwd; echo x > left"))).strip()

    assert not Path(folder).exists()
    assert Path(folder).parent == Path(os.path.realpath("/tmp"))  # noqa: S108


async def test_a_failure_is_an_error_unless_its_code_is_asked_for(call: Caller) -> None:
    command = "echo why >&2; exit 3"

    assert await call(run_shell, shell(command, "code")) == 3
    assert (await call(run_shell, shell(command, "all")))["code"] == 3
    for returns in ("stdout", "stderr", "none"):
        assert await call.refused(run_shell, shell(command, returns)) == (
            "runtime",
            500,
            "ended with code 3: why",
        )


async def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    async with caller(processes=Processes(**ALL, seconds=0.5)) as call:
        command = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"
        assert (await call.refused(run_shell, shell(command)))[:2] == ("timeout", 408)

    await ended(int((tmp_path / "pid").read_text()))


async def test_a_program_that_has_closed_its_output_is_killed_in_time_too() -> None:
    async with caller(processes=Processes(**ALL, seconds=0.3)) as call:
        kind, *_ = await call.refused(run_shell, shell("exec >&- 2>&-; exec sleep 30"))
        assert kind == "timeout"


async def test_a_cancelled_call_kills_what_it_has_started(call: Caller, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    os.mkfifo(file)
    task = asyncio.create_task(call(run_shell, shell(f"sleep 1000 & echo $$ $! > {file}; wait")))
    pids = (await asyncio.to_thread(file.read_text)).split()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in pids:
        await ended(int(pid))


async def test_what_is_left_in_the_background_ends_with_the_program(
    call: Caller, tmp_path: Path
) -> None:
    command = f"sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > {tmp_path}/pid"
    await call(run_shell, shell(command))

    await ended(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("to", ["", ">&2"])
async def test_endless_output_is_stopped(to: str) -> None:
    async with caller(processes=Processes(**ALL, most_bytes=100_000)) as call:
        assert await call.refused(run_shell, shell(f"yes {to}")) == (
            "runtime",
            500,
            "/bin/sh has written more than 100000 bytes",
        )


async def test_output_up_to_the_bound_is_given() -> None:
    async with caller(processes=Processes(**ALL, most_bytes=100_000)) as call:
        assert len(await call(run_shell, shell("yes | head -c 100000"))) == 100_000


async def test_much_stdin_that_is_not_read_does_no_harm(call: Caller) -> None:
    assert await call(run_shell, shell("echo done", stdin="x" * 3_000_000)) == "done\n"


async def test_much_goes_through_both_ways(call: Caller) -> None:
    text = "x" * 900_000
    assert await call(run_shell, shell("cat", stdin=text)) == text


async def test_what_is_not_utf_8_is_replaced(call: Caller) -> None:
    assert await call(run_shell, shell(r"printf '\377a'")) == "\ufffda"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"arguments": ["a\0b"]}, "runtime"),
        ({"environment": {"A": "a\0b"}}, "runtime"),
        ({"environment": {"A=B": "x"}}, "validation"),
        ({"environment": {"": "x"}}, "validation"),
        ({"arguments": ["x" * 4_000_000]}, "runtime"),
    ],
)
async def test_what_cannot_be_given_is_refused(
    call: Caller, more: dict[str, Any], kind: str
) -> None:
    assert (await call.refused(run_shell, shell("true", **more)))[0] == kind


async def test_what_nothing_waits_for_runs_on(call: Caller, tmp_path: Path) -> None:
    file = tmp_path / "told"
    os.mkfifo(file)

    assert await call(run_shell, {**shell(f"echo on > {file}"), "await": False}) is None
    assert await asyncio.to_thread(file.read_text) == "on\n"


async def test_what_nothing_waits_for_is_bounded_and_ends_with_the_runtime(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pid"
    os.mkfifo(file)
    async with caller(processes=Processes(**ALL, most_left=1)) as call:
        left = {**shell(f"echo $$ > {file}; exec sleep 1000"), "await": False}
        await call(run_shell, left)
        pid = int(await asyncio.to_thread(file.read_text))
        assert await call.refused(run_shell, left) == ("runtime", 503, "1 programs run already")
        assert runs(pid)

    await ended(pid)


async def test_a_failure_that_nothing_waits_for_is_logged(
    call: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    await call(run_shell, {**shell("exit 4"), "await": False})
    await asyncio.gather(*call.call.runtime.processes._left, return_exceptions=True)
    assert "ended with code 4" in caplog.text


async def test_calls_run_side_by_side(call: Caller, tmp_path: Path) -> None:
    """Each waits for the other, so one after the other would never end."""
    os.mkfifo(tmp_path / "a")
    os.mkfifo(tmp_path / "b")
    one = shell(f"echo 1 > {tmp_path}/a; cat {tmp_path}/b")
    two = shell(f"cat {tmp_path}/a; echo 2 > {tmp_path}/b")

    answers = await asyncio.gather(call(run_shell, one), call(run_shell, two))
    assert [*answers] == ["2\n", "1\n"]


async def test_a_python_script_runs_alone(call: Caller) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read(), sys.flags.isolated)"
    it = {"language": "python", "code": code, "arguments": ["a", {"b": 1}], "stdin": "in"}

    assert await call(run_script, {"script": it}) == "['a', '{\"b\":1}'] in 1\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("language", ["js", "javascript", "JavaScript"])
async def test_a_script_in_javascript_runs(call: Caller, language: str) -> None:
    code = "const [_, __, a, b] = process.argv; console.log('arg >', a, b, process.env.C)"
    it = {"language": language, "code": code, "arguments": ["x", "y"], "environment": {"C": "c"}}

    assert await call(run_script, {"script": it}) == "arg > x y c\n"


async def test_an_unknown_language_is_refused(call: Caller) -> None:
    it = {"language": "cobol", "code": ""}
    assert (await call.refused(run_script, {"script": it}))[0] == "configuration"


async def test_a_program_that_is_not_there_is_an_error() -> None:
    async with caller(processes=Processes(**ALL, programs={"python": "/no/such"})) as call:
        it = {"language": "python", "code": ""}
        assert await call.refused(run_script, {"script": it}) == (
            "runtime",
            500,
            "/no/such cannot be started: FileNotFoundError",
        )


DOCUMENT = """
document: {dsl: 1.0.3, namespace: demo, name: long, version: 1.0.0}
do:
  - long:
      run: {shell: {command: 'echo $$ > "$1"; exec sleep 1000', arguments: ['${ .file }']}}
      timeout: {after: {seconds: LIMIT}}
"""


@pytest.mark.parametrize("limit", [1, 1000])
async def test_a_program_ends_with_its_task(tmp_path: Path, limit: int) -> None:
    file = tmp_path / "pid"
    os.mkfifo(file)
    async with tasks_on(processes=Processes(**ALL)) as tasks:
        await tasks.add(DOCUMENT.replace("LIMIT", str(limit)))
        id = await tasks.start("demo/long", {"file": str(file)})
        pid = int(await asyncio.to_thread(file.read_text))
        if limit > 1:
            await tasks.cancel(id)
        with pytest.raises((TaskError, InstanceCancelledError)):
            await tasks.result(id, timeout=20)

        await ended(pid)
