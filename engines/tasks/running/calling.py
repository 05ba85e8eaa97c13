"""Tasks that call functions, programs and other documents, and how that is done."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
from msgspec import UNSET

from flowstate import CommitUnknownError, DriverError
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.values import kept
from flowstate.engines.tasks.calls.authentication import authorization, policy_of
from flowstate.engines.tasks.calls.functions import find
from flowstate.engines.tasks.calls.processes import run_container, run_script, run_shell
from flowstate.engines.tasks.calls.secrets import concealed
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.advancing import Advance, Kind
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.describing import call_of
from flowstate.engines.tasks.running.emitting import emit
from flowstate.engines.tasks.running.iterating import gather, pass_on
from flowstate.engines.tasks.running.position import Level, Wanted, child_of
from flowstate.engines.tasks.running.scope import Scope
from flowstate.engines.tasks.runtime import Call, Function
from flowstate.engines.tasks.templates import NO_SECRETS

__all__ = ["CallKind", "RunKind", "STORE_FAILED", "perform"]

STORE_FAILED = (DriverError, CommitUnknownError)

PROGRAMS: Mapping[str, Function] = {
    "container": run_container,
    "script": run_script,
    "shell": run_shell,
}
LATE = ("$secrets", "$authorization")
ROOM = 100  # Levels around a result, which lies within the position.
FOREACH = ("with", "subscription", "foreach")


class _Late(Kind):
    """Transforms its input with the arguments, in the step, if that needs secrets."""

    def is_late(self, task: Any) -> bool:
        return _is_late(task.get("input"))


class CallKind(_Late):
    """Calls a function."""

    async def enter(self, advance: Advance, task: Any) -> Wanted | None:
        level = advance.level
        name, written = task["call"], task.get("with")
        pinned = advance.position.fetched.get(child_of("/catalogs", name))
        found = pinned or await find(name, call_of(advance.scope()))
        if callable(found):
            if _is_late([task.get("input"), written]):
                return Wanted("call", name)
            args = await _arguments(advance.scope(), name, written or {}, level.input)
            return Wanted("call", name, args)
        if self.is_late(task):
            raise TaskError.of("configuration", NO_SECRETS)
        pointer = child_of("/use/functions", name)
        if name not in ((advance.scene.document.content.get("use") or {}).get("functions") or {}):
            pointer = child_of("/catalogs", name)
            advance.position.fetched[pointer] = found
        level.phase = "only"
        value = level.input
        if written is not None:
            value = await advance.scope().template(written, level.input)
        advance.push(pointer, value)
        return None

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> Wanted | None:
        level = advance.level
        task = advance.definition()
        if _foreach(task) is None:
            await advance.complete(gave)
            return None
        if level.gathered is UNSET:
            level.gathered = []
        if isinstance(gave, Mapping) and "message" in gave:
            pointer = child_of(level.task, *FOREACH)
            pass_on(advance, level, _foreach(task) or {}, pointer, gave["message"])
            return None
        await advance.complete(level.gathered)
        return None

    async def list_ended(self, advance: Advance, task: Any) -> Wanted | None:
        level = advance.level
        level.gathered.append(await gather(advance, _foreach(task) or {}, level.value))
        if not level.exited:
            return await self.enter(advance, task)
        advance.scene.runtime.subscriptions.end(call_of(advance.scope()).key)
        await advance.complete(level.gathered)
        return None


def _foreach(task: Any) -> Mapping[str, Any] | None:
    found = task
    for name in FOREACH:
        found = found.get(name) if isinstance(found, Mapping) else None
    foreach: Mapping[str, Any] | None = found
    return foreach


class RunKind(_Late):
    """Runs a program or another document."""

    async def enter(self, advance: Advance, task: Any) -> Wanted:
        level = advance.level
        run = task["run"]
        if "workflow" in run:
            return await self._run_document(advance, level, task)
        kind = next(each for each in PROGRAMS if each in run)
        if _is_late([task.get("input"), run]):
            return Wanted("call", f"run {kind}")
        return Wanted("call", f"run {kind}", await advance.scope().template(run, level.input))

    async def _run_document(self, advance: Advance, level: Level, task: Any) -> Wanted:
        if self.is_late(task):
            raise TaskError.of("configuration", NO_SECRETS)
        named = await advance.scope().template(task["run"]["workflow"], level.input)
        key = f"{named['namespace']}/{named['name']}:{named.get('version', 'latest')}"
        document = await advance.scene.runtime.documents.load(key)
        data = TaskData(document.key, named.get("input"), advance.now())
        name = "detached" if task["run"].get("await") is False else ""
        return Wanted("workflow", name, msgspec.to_builtins(data))

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> None:
        level = advance.level
        run = advance.definition()["run"]
        if wanted.does == "workflow" and not wanted.name:
            if gave is None:
                advance.times_out()
            (gave,) = gave
        if run.get("await") is False:
            gave = level.input
        elif run.get("return") == "none":
            gave = None
        await advance.complete(gave)


def _is_late(written: Any) -> bool:
    """Return whether something of a document mentions what must not be stored."""
    if isinstance(written, str):
        return any(name in written for name in LATE)
    if isinstance(written, Mapping):
        return any(map(_is_late, written.values()))
    return isinstance(written, list | tuple) and any(map(_is_late, written))


async def _arguments(scope: Scope, name: str, written: Mapping[str, Any], value: Any) -> Any:
    if name != "asyncapi":
        return await scope.template(written, value)
    from flowstate.engines.tasks.calls.asyncapi import UNEVALUATED  # noqa: PLC0415 - an extra

    return await scope.template(written, value, UNEVALUATED)


async def perform(scope: Scope, wanted: Wanted) -> Any:
    """Do what a task wants: call its function.

    Raises:
        TaskError: the function has failed.
    """
    call = call_of(scope)
    try:
        runtime = scope.scene.runtime
        is_own = wanted.name in runtime.functions  # It may sleep by the clock.
        with contextlib.nullcontext() if is_own else runtime.engine.clock.working():
            gave = await _called(scope, wanted, call)
        kept("the result", gave, room=ROOM)
    except TaskError as error:
        raise TaskError.from_json(await concealed(error.to_json(), call)) from None
    except (asyncio.CancelledError, MisfitError):
        raise
    except Exception as error:
        if wanted.does == "emit" and isinstance(error, STORE_FAILED):
            raise
        text = await concealed(f"{type(error).__name__}: {error}", call)
        raise TaskError.of("runtime", text) from None
    return await concealed(gave, call)


async def _called(scope: Scope, wanted: Wanted, call: Call) -> Any:
    if wanted.does == "emit":
        return await emit(wanted.args, call)
    function: Any = PROGRAMS.get(wanted.name.removeprefix("run "))
    if not wanted.name.startswith("run "):
        function = await find(wanted.name, call)
    if not callable(function):
        raise TaskError.of("configuration", f"there is no function {wanted.name!r}")
    if wanted.args is not UNSET:
        return await function(wanted.args, call)
    scope, call = await _with_secrets(scope, call)
    task = scope.scene.look_up(scope.position, call.task)
    written = task["run"] if "run" in task else task.get("with") or {}
    return await function(await _arguments(scope, wanted.name, written, call.input), call)


async def _with_secrets(scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Return the scope of arguments that need secrets, and the call with its input transformed."""
    scope, level = attrs.evolve(scope, secrets=True), scope.position.levels[-1]
    task = scope.scene.look_up(scope.position, level.task)
    given = task.get("input") or {}
    if "from" in given and _is_late(given):
        level.input = await attrs.evolve(scope, has_input=False).either(given["from"], level.raw)
        call = call_of(scope)
    policy = policy_of(task.get("with") or {})
    if policy is not None and "$authorization" in msgspec.json.encode(task).decode():
        described = (await authorization(policy, call)).described
        scope = attrs.evolve(scope, more={**scope.more, "authorization": described})
    return scope, call
