"""Goes on in a document from task to task, until one of them wants something done."""

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
from msgspec import UNSET, Raw, Struct

from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.data import Happened
from flowstate.engines.tasks.running.listening import Seen
from flowstate.engines.tasks.running.position import (
    Level,
    Wanted,
    child_of,
    encode,
)
from flowstate.engines.tasks.running.schemas import check_schema
from flowstate.engines.tasks.running.scope import Scope
from flowstate.engines.tasks.running.standing import MOST_BYTES, TOO_LARGE, Standing

__all__ = ["Advance", "Advanced", "Caught", "Kind", "kind_of"]

MOST_OUTPUT = 1_024  # Bytes of an output that the trail has.
KINDS = ("for", "try", "call", "emit", "fork", "listen", "raise", "run", "set", "switch", "wait")


class Advanced(Struct, omit_defaults=True):
    """How far it has come.

    Attributes:
        position: where it stands; unset when it has ended.
        stop: the JSON pointer of the task there.
        context: ``$context``, if it was set.
        keys: by which events correlate, if they were set.
        exports: how often it had been set before.
        trail: what has happened.
        output: of the whole, or of the branch.
        failed: the error that nothing has caught, as problem details.
        is_end: a branch ends the whole.
        seen: the events that a branch has taken.
    """

    position: Raw | msgspec.UnsetType = UNSET
    stop: str = ""
    context: Any = UNSET
    keys: Any = UNSET
    exports: int = 0
    trail: list[Happened] = msgspec.field(default_factory=list)
    output: Any = None
    failed: dict[str, Any] | None = None
    is_end: bool = False
    seen: Seen = msgspec.field(default_factory=Seen)


class Finished(Exception):  # noqa: N818 - it is no error
    """All tasks have ended."""

    def __init__(self, output: Any, *, is_end: bool = False) -> None:
        super().__init__()
        self.output, self.is_end = output, is_end


class _Failed(Exception):  # noqa: N818 - it carries one
    def __init__(self, error: TaskError) -> None:
        super().__init__()
        self.error = error


class Kind:
    """What tasks of one kind do; where it says nothing else, they put out what they are given."""

    async def enter(self, advance: "Advance", task: Any) -> Wanted | None:
        """Begin, with the input transformed."""
        raise NotImplementedError

    async def took(self, advance: "Advance", wanted: Wanted, gave: Any) -> Wanted | None:
        """Go on with what was wanted."""
        await advance.complete(gave)
        return None

    async def list_ended(self, advance: "Advance", task: Any) -> Wanted | None:
        """Go on after the list of tasks has ended."""
        await advance.complete(advance.level.value)
        return None

    async def catches(self, advance: "Advance", error: TaskError) -> "Caught":
        """Return whether an error goes no further, and what is wanted then."""
        return False, None

    def is_late(self, task: Any) -> bool:
        """Return whether the input is transformed only when the effect is done."""
        return False


Caught = tuple[bool, Wanted | None]


def kind_of(task: Mapping[str, Any]) -> str:
    """Return what kind of task a definition is."""
    return next((kind for kind in KINDS if kind in task), "do")


@attrs.define(eq=False)
class Advance(Standing):
    """Goes on from one position.

    Attributes:
        kinds: of tasks, by name; ``document`` is the outermost.
    """

    kinds: Mapping[str, Kind] = attrs.field(kw_only=True)

    async def run(self) -> Advanced:
        """Go on as far as it is possible without an effect."""
        error: TaskError | None = None
        while True:
            try:
                wanted = None if error is None else await self._raise(error)
                error = None
                return self._advanced(wanted or await self._until_wanted())
            except TaskError as failure:
                error = failure
            except Finished as finished:
                result = self._result()
                result.output, result.is_end = finished.output, finished.is_end
                result.seen = self.position.seen
                return result
            except _Failed as failed:
                result = self._result()
                result.failed = failed.error.to_json()
                return result

    def _result(self) -> Advanced:
        result = Advanced(exports=self.exports, trail=self.trail)
        if self.is_exported:
            result.context, result.keys = self.context, self.keys
        return result

    def _advanced(self, wanted: Wanted) -> Advanced:
        position = self.position
        position.wants = wanted
        result = self._result()
        result.position = encode(position, self.scene.data.input)
        size = memoryview(result.position).nbytes
        if size > MOST_BYTES:
            raise TaskError.of("runtime", TOO_LARGE)
        self.check_total(self.context, size)
        result.stop = position.levels[-1].task or "/do"
        return result

    async def _until_wanted(self) -> Wanted:
        while self.left > 0:
            wanted = await self._move()
            if wanted is not None:
                return wanted
        return Wanted("rest")

    # Tasks, one after the other.

    async def _move(self) -> Wanted | None:
        position, level = self.position, self.level
        self.check_deadlines()
        if position.timed_out:
            position.timed_out = False  # It goes on as a failure if no level is meant.
            self.times_out()
        if position.failed is not None:
            failed, position.failed, position.wants = position.failed, None, None
            raise TaskError.from_json(failed)
        if position.wants is not None and position.gave is not UNSET:
            wants, gave = position.wants, position.gave
            position.wants, position.gave = None, UNSET
            return await self.kind.took(self, wants, gave)
        match level.phase:
            case "new":
                await self._begin(level)
            case "enter":
                return await self._enter(level)
            case "body" | "before" | "after":
                return await self._next(level)
        return None

    @property
    def kind(self) -> Kind:
        """What the innermost task does."""
        return self.kinds[kind_of(self.definition()) if self.level.task else "document"]

    async def _begin(self, level: Level) -> None:
        definition = self.definition()
        if level.task and "if" in definition:
            scope = self.scope(has_input=False)
            if not await scope.condition(definition["if"], level.raw):
                self.position.levels.pop()
                await self._ended(level.raw, "continue")
                return
        if "timeout" in definition:
            timeout = self.reusable("timeouts", definition["timeout"])
            level.deadline = self.later(await self.seconds(timeout["after"], level.raw))
        level.phase = "before"
        await self._extend(level, "before")

    async def _enter(self, level: Level) -> Wanted | None:
        definition = self.definition()
        level.value = level.raw
        given, kind = definition.get("input") or {}, self.kind
        if "schema" in given:
            await check_schema(given["schema"], level.raw, self, "the input")
        if "from" in given and not kind.is_late(definition):
            scope = self.scope(has_input=False)
            level.input = level.value = await scope.either(given["from"], level.raw)
        if level.task:
            self.note("started", level)
        level.phase = "body"
        return await kind.enter(self, definition)

    async def _next(self, level: Level) -> Wanted | None:
        """Let the next task of a list begin, or end the list."""
        tasks = self.look_up(level.list) if level.list else ()
        if not level.exited and level.index < len(tasks):
            name = next(iter(tasks[level.index]))
            self.push(child_of(level.list, level.index, name), level.value)
        elif level.phase == "body":
            self.left -= 1
            return await self.kind.list_ended(self, self.definition())
        elif level.exited and level.phase == "before":
            level.phase = "body"
            await self.complete(level.value)
        else:
            if level.exited:
                level.output = level.value
            level.extension += 1
            await self._extend(level, level.phase)
        return None

    async def _extend(self, level: Level, when: str) -> None:
        """Let the tasks of the next extension run, or go on."""
        extensions = self._extensions(level)
        while level.extension < len(extensions):
            name, extension = next(iter(extensions[level.extension].items()))
            if when in extension and await self._is_extended_by(extension, level):
                list_ = child_of("/use/extensions", level.extension, name, when)
                self.run_list(level, list_, level.raw if when == "before" else level.output)
                return
            level.extension += 1
        level.extension, level.list = 0, ""
        if when == "before":
            level.phase = "enter"
        else:
            await self._leave(level)

    def _extensions(self, level: Level) -> list[dict[str, Any]]:
        """Return the extensions that may extend a task: none within an extension."""
        if not level.task or self.is_extension:
            return []
        return (self.scene.document.content.get("use") or {}).get("extensions") or []

    async def _is_extended_by(self, extension: Mapping[str, Any], level: Level) -> bool:
        kind = kind_of(self.definition())
        if extension["extend"] not in ("all", kind, "composite" if kind == "do" else kind):
            return False
        if "when" not in extension:
            return True
        task = {**self.definition(), **self.scope().task("$task")}
        scope = self.scope(more={"task": task}, has_input=False)
        return await scope.condition(extension["when"], level.raw)

    # Ends of tasks.

    async def complete(self, output: Any, then: str = "") -> None:
        """Let the innermost task end with an output.

        Args:
            output: not yet transformed.
            then: what is to follow instead of what the task says.
        """
        level, definition = self.level, self.definition()
        level.phase, level.then = "done", then
        self.size_of(output)
        given = definition.get("output") or {}
        raw = output
        if "as" in given:
            scope = self.scope(raw_output=raw)
            output = await scope.either(given["as"], raw)
        if "schema" in given:
            await check_schema(given["schema"], output, self, "the output")
        if "export" in definition:
            await self.export(
                definition["export"], output, self.scope(raw_output=raw, output=output)
            )
        if not level.task:
            self.check_total(self.context, 2 * self.size_of(output))  # The trail has it, too.
            self.note("completed", level, output=output)
            raise Finished(output)
        is_small = self.size_of(output) <= MOST_OUTPUT
        self.note("completed", level, **({"output": output} if is_small else {}))
        level.output, level.phase = output, "after"
        await self._extend(level, "after")

    async def export(self, export: Mapping[str, Any], value: Any, scope: Scope) -> None:
        """Set the context."""
        if "as" in export:
            context = await scope.either(export["as"], value)
            self.check_total(
                context, memoryview(encode(self.position, self.scene.data.input)).nbytes
            )
            self.context, self.is_exported = context, True
        if "schema" in export:
            await check_schema(export["schema"], self.context, self, "the context")

    async def _leave(self, level: Level) -> None:
        then = level.then or self.definition().get("then") or "continue"
        self.position.levels.pop()
        await self._ended(level.output, then)

    async def _ended(self, output: Any, then: str) -> None:
        """Let the outer level go on after a task."""
        outer = self.level
        outer.value = output
        if then == "end":
            await self.end(output)
        elif outer.phase == "only":
            if self.position.is_branch and len(self.position.levels) == 1:
                raise Finished(output)
            await self.complete(output)
        elif then == "exit":
            outer.exited = True
        elif then == "continue":
            outer.index += 1
        else:
            outer.index = self._index_of(outer.list, then)

    def _index_of(self, list_: str, name: str) -> int:
        for index, task in enumerate(self.look_up(list_)):
            if name in task:
                return index
        raise TaskError.of("configuration", f"there is no task {name!r} to go on with")

    async def end(self, output: Any) -> None:
        """Let all of the document end with an output."""
        levels = self.position.levels
        while len(levels) > 1:
            self.note("completed", levels.pop())
        if self.position.is_branch:
            raise Finished(output, is_end=True)
        await self.complete(output)

    async def _raise(self, error: TaskError) -> Wanted | None:
        """Raise an error in the innermost task, and let the first one go on that catches it."""
        position, levels = self.position, self.position.levels
        position.wants, position.gave = None, UNSET
        while True:
            error.instance = error.instance or self.level.task
            level = self.level
            try:
                is_caught, wanted = await self._catches(level, error)
            except TaskError as other:
                error = other
                continue
            if is_caught:
                return wanted
            problem = error.to_json()
            if len(levels) > 1 and error.instance != level.task:  # It is told once.
                problem = {"type": error.type, "status": error.status}
            self.note("faulted", level, error=problem)
            if len(levels) == 1:
                raise _Failed(error)
            levels.pop()

    async def _catches(self, level: Level, error: TaskError) -> Caught:
        if level.phase != "body" or level.list != child_of(level.task, "try"):
            return False, None
        try:
            return await self.kind.catches(self, error)
        except TaskError:
            level.phase = "done"  # It catches nothing more.
            raise
