"""``run``: shell commands, scripts and containers."""

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flowstate.engines.tasks.calls.programs import Ended, run_program, text_of
from flowstate.engines.tasks.calls.resources import resource
from flowstate.engines.tasks.durations import seconds_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["LANGUAGES", "run_container", "run_script", "run_shell"]

LANGUAGES = {
    "js": ("javascript", "script.js"),
    "javascript": ("javascript", "script.js"),
    "python": ("python", "-I", "script.py"),
}
"""By the name of a language: what runs it, its options, and the name of its file."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OUTSIDE_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
TAIL = 500  # Characters of stderr in an error.
NOT_STARTED = 125  # With this code docker and podman say that they have failed themselves.
PULLS = {"ifNotPresent": "missing", "always": "always", "never": "never"}


async def run_shell(arguments: Mapping[str, Any], call: Call) -> Any:
    """Run a command by the shell: ``{shell: {command, arguments, environment, stdin}}``.

    Raises:
        TaskError: ``authorization``: it is switched off; ``runtime``: it cannot be started, has
            written too much, or failed and its code was not asked for; ``timeout``.
    """
    it = arguments["shell"]
    command = [call.runtime.processes.program("shell"), "-c", it["command"], "sh"]

    async def run(folder: str) -> Ended:
        return await _run([*command, *_arguments(it)], it, call, folder)

    return await _answer(arguments, "shell", call, run)


async def run_script(arguments: Mapping[str, Any], call: Call) -> Any:
    """Run a script: ``{script: {language, code | source, arguments, environment, stdin}}``.

    Raises:
        TaskError: as of :func:`run_shell`; ``configuration``: the language is unknown.
    """
    it = arguments["script"]
    if it["language"].lower() not in LANGUAGES:
        raise TaskError.of("configuration", f"no language {it['language']!r}")
    language, *options, name = LANGUAGES[it["language"].lower()]
    program = call.runtime.processes.program(language)

    async def run(folder: str) -> Ended:
        code = it["code"].encode() if "code" in it else await resource(it["source"], call)
        file = Path(folder, name)
        file.write_bytes(code)  # noqa: ASYNC240 - small
        return await _run([program, *options, str(file), *_arguments(it)], it, call, folder)

    return await _answer(arguments, "script", call, run)


async def run_container(arguments: Mapping[str, Any], call: Call) -> Any:
    """Run a container: ``{container: {image, name, command, ports, volumes, ...}}``.

    Raises:
        TaskError: as of :func:`run_shell`; ``authorization``: a folder may not be mounted.
    """
    it = arguments["container"]
    name = it.get("name") or _name(call)

    async def run(folder: str) -> Ended:
        words = _container(it, name, call, folder)
        if "name" not in it:  # Ours alone: what a crash has left of this very call.
            await _remove(call, name)
        try:
            ended = await _client(call, words, it, folder)
        except BaseException:
            await asyncio.shield(_stop(call, name))
            raise
        if ended.code == NOT_STARTED:
            raise TaskError.of("runtime", f"no container: {_tail(ended)}")
        await _clean_up(it, name, call)
        return ended

    return await _answer(arguments, "container", call, run)


async def _answer(
    arguments: Mapping[str, Any],
    kind: str,
    call: Call,
    run: Callable[[str], Coroutine[Any, Any, Ended]],
) -> Any:
    processes = call.runtime.processes
    processes.check(kind)

    async def run_in_folder() -> Any:
        with tempfile.TemporaryDirectory(prefix="flowstate-run-", ignore_cleanup_errors=True) as to:
            return _result(await run(to), arguments.get("return", "stdout"))

    if arguments.get("await", True):
        return await run_in_folder()
    processes.leave(run_in_folder(), f"{kind} {call.key}")
    return None


def _result(ended: Ended, wanted: str) -> Any:
    if wanted == "code":
        return ended.code
    if wanted == "all":
        return {"code": ended.code, "stdout": ended.stdout, "stderr": ended.stderr}
    if ended.code:
        raise TaskError.of("runtime", f"ended with code {ended.code}: {_tail(ended)}")
    return None if wanted == "none" else getattr(ended, wanted)


def _tail(ended: Ended) -> str:
    return ended.stderr[-TAIL:].strip()


async def _run(
    command: list[str],
    it: Mapping[str, Any],
    call: Call,
    folder: str,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    return await run_program(
        command,
        stdin=text_of(it.get("stdin", "")),
        environment=_environment(it) if environment is None else environment,
        folder=folder,
        within=call.runtime.processes,
    )


async def _client(call: Call, words: list[str], it: Mapping[str, Any], folder: str) -> Ended:
    words = [call.runtime.processes.program("container"), *words]
    # The environment says where the containers are; they do not see it.
    return await _run(words, it, call, folder, os.environ)


def _container(it: Mapping[str, Any], name: str, call: Call, folder: str) -> list[str]:
    variables = Path(folder, "environment")
    lines = [f"{key}={value}\n" for key, value in _environment(it).items()]
    if any(line.count("\n") > 1 for line in lines):
        raise TaskError.of("validation", "a variable of a container has one line")
    variables.write_text("".join(lines))
    words = ["run", "--interactive", "--name", name, "--env-file", str(variables)]
    words += ["--pull", PULLS[it.get("pullPolicy", "ifNotPresent")]]
    for outside, inside in it.get("ports", {}).items():
        words += ["--publish", f"{outside}:{text_of(inside)}"]
    for outside, inside in it.get("volumes", {}).items():
        words += ["--volume", _volume(outside, text_of(inside), call)]
    arguments = _arguments(it)
    if "command" in it:
        words += ["--entrypoint", "/bin/sh"]
        arguments = ["-c", it["command"], "sh", *arguments]
    return [*words, "--", it["image"], *arguments]


def _volume(outside: str, inside: str, call: Call) -> str:
    if ":" in outside or ":" in inside.removesuffix(":ro"):
        raise TaskError.of("validation", "a volume is a folder, and a path inside")
    if OUTSIDE_A_NAME.search(outside) or outside.startswith("."):
        folder = Path(outside).resolve()
        allowed = (Path(each).resolve() for each in call.runtime.processes.volumes)
        if not any(folder.is_relative_to(each) for each in allowed):
            raise TaskError.of("authorization", f"{outside} may not be mounted")
        outside = str(folder)
    return f"{outside}:{inside}"


def _name(call: Call) -> str:
    uuid, document = uuid5(NAMESPACE_URL, call.key), call.document
    task = call.task.rpartition("/")[2]
    return OUTSIDE_A_NAME.sub("_", f"{document.name}-{uuid}.{document.namespace}-{task}")


async def _clean_up(it: Mapping[str, Any], name: str, call: Call) -> None:
    lifetime = it.get("lifetime", {})
    if lifetime.get("cleanup", "never") == "never":
        return
    work = _remove_after(seconds_of(lifetime.get("after", "PT0S")), call, name)
    try:
        call.runtime.processes.leave(work, f"removal of {name}")
    except TaskError:  # Too many wait for theirs; and it has done its work, so it has not failed.
        await _remove(call, name)


async def _remove_after(seconds: float, call: Call, name: str) -> None:
    await call.runtime.engine.clock.sleep(seconds)
    await _remove(call, name)


async def _remove(call: Call, name: str) -> None:
    await _client(call, ["rm", "--force", "--volumes", name], {}, tempfile.gettempdir())


async def _stop(call: Call, name: str) -> None:
    await _client(call, ["kill", name], {}, tempfile.gettempdir())  # Podman removes it slowly.
    await _remove(call, name)


def _arguments(it: Mapping[str, Any]) -> list[str]:
    return [text_of(each) for each in it.get("arguments", [])]


def _environment(it: Mapping[str, Any]) -> dict[str, str]:
    variables = {key: text_of(value) for key, value in it.get("environment", {}).items()}
    if wrong := [key for key in variables if not VARIABLE.fullmatch(key)]:
        raise TaskError.of("validation", f"no name of a variable: {wrong[0][:50]!r}")
    return variables
