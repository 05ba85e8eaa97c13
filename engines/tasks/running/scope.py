"""Evaluates the expressions of a document, each with the variables that it may use."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import attrs
from msgspec import UNSET

from flowstate.engines.events.cloud_event import text_of
from flowstate.engines.events.consuming import is_true
from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.tasks.calls.secrets import check_own, secrets_of
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.position import Position, child_of, look_up, name_of
from flowstate.engines.tasks.runtime import Runtime
from flowstate.engines.tasks.templates import NO_SECRETS, Program, names_in, pieces, program_of

__all__ = ["Scene", "Scope"]

BARE = re.compile(r"\$(workflow|task)\b(?!\.\w)")  # All of it, not only one field.


@lru_cache(maxsize=8_192)
def _part(document: Document, pointer: str) -> Any:
    return look_up(document.content, pointer)


@attrs.frozen
class Scene:
    """What is the same for all tasks of an instance.

    Attributes:
        runtime: what they are given from outside.
        document: that is run.
        instance: its id.
        data: of the instance, which is only read.
    """

    runtime: Runtime
    document: Document
    instance: str
    data: TaskData

    def look_up(self, position: Position, pointer: str) -> Any:
        """Return a part of the document, or of a function that comes from a catalog."""
        for root, definition in position.fetched.items():
            if pointer == root or pointer.startswith(f"{root}/"):
                return look_up(definition, pointer[len(root) :])
        return _part(self.document, pointer)

    def scope(self, position: Position, **more: Any) -> "Scope":
        """Return the scope of the innermost task."""
        return Scope(self, position, **more)


@attrs.frozen
class Scope:
    """The variables of one place in a document.

    Attributes:
        scene: of the instance.
        position: whose innermost level is the task.
        context: ``$context``.
        has_input: the input of the task was transformed.
        raw_output: of the task, if it has one.
        output: that, transformed.
        secrets: expressions may use them here.
        more: further variables.
    """

    scene: Scene
    position: Position
    context: Any
    has_input: bool = True
    raw_output: Any = UNSET
    output: Any = UNSET
    secrets: bool = False
    more: Mapping[str, Any] = attrs.field(factory=dict)

    async def expression(self, text: str, value: Any) -> Any:
        """Return what a field that always is an expression gives."""
        return await self.evaluate(program_of(text), value)

    async def condition(self, text: Any, value: Any) -> bool:
        """Return whether a condition is true; it may use secrets, since nothing of it is kept."""
        if not isinstance(text, str):
            return is_true(text)
        return is_true(await attrs.evolve(self, secrets=True).expression(text, value))

    async def evaluate(self, program: str, value: Any) -> Any:
        """Return what an expression gives.

        Raises:
            TaskError: ``expression``, or what the secrets raise.
        """
        variables = {}
        for name in names_in(program):
            found = await self._variable(name, program)
            if found is not UNSET:
                variables[name] = found
        try:
            return await self.scene.runtime.expressions.evaluate(program, value, variables)
        except ExpressionError as error:
            raise TaskError.of("expression", str(error)) from error

    async def either(self, written: Any, value: Any) -> Any:
        """Return what a field gives that is an expression, or an object with some within it."""
        if isinstance(written, str):
            return await self.expression(written, value)
        return await self.template(written, value)

    async def template(
        self, written: Any, value: Any, skip: Collection[str] = (), at: str = ""
    ) -> Any:
        """Return a part of the document with all expressions in it evaluated.

        Args:
            written: that part.
            value: on which they are evaluated.
            skip: JSON pointers within it of what stays as it is.
            at: the JSON pointer of ``written`` for those.
        """
        if at in skip:
            return written
        if isinstance(written, str):
            return await self._text(written, value)
        if isinstance(written, Mapping):
            return {
                key: await self.template(each, value, skip, child_of(at, key))
                for key, each in written.items()
            }
        if isinstance(written, list | tuple):
            return [
                await self.template(each, value, skip, child_of(at, index))
                for index, each in enumerate(written)
            ]
        return written

    async def _text(self, text: str, value: Any) -> Any:
        parts = pieces(text)
        if len(parts) == 1 and type(parts[0]) is Program:
            return await self.evaluate(parts[0], value)
        if not any(type(part) is Program for part in parts):
            return await self._loosely(text, value) if self._is_loose else text
        found = [
            text_of(await self.evaluate(part, value)) if type(part) is Program else part
            for part in parts
        ]
        return "".join(found)

    @property
    def _is_loose(self) -> bool:
        evaluate = self.scene.document.content.get("evaluate") or {}
        return bool(evaluate.get("mode") == "loose")

    async def _loosely(self, text: str, value: Any) -> Any:
        try:
            return await self.evaluate(text, value)
        except TaskError as error:
            if not error.type.endswith("/expression"):
                raise
            return text

    async def _variable(self, name: str, program: str) -> Any:  # noqa: C901, PLR0911 - a table
        for each in (self.more, *self._own()):
            if name in each:
                return each[name]
        runtime, level = self.scene.runtime, self.position.levels[-1]
        match name:
            case "context":
                return {} if self.context is None else self.context
            case "input" if self.has_input and level.task:
                return level.input
            case "output":
                return self.output
            case "task" if level.task:
                return self.task(program)
            case "workflow":
                return self._workflow(program)
            case "runtime":
                names = ("name", "version", "metadata")
                return {each: getattr(runtime, each) for each in names}
            case "secrets" if self.secrets:
                check_own(level.task)
                return await secrets_of(self.scene.document, runtime)
            case "secrets":
                raise TaskError.of("configuration", NO_SECRETS)
        return UNSET

    def _own(self) -> list[Mapping[str, Any]]:
        """Return the variables of the levels, the innermost first."""
        levels = [level.variables for level in reversed(self.position.levels) if level.variables]
        return [*levels, self.position.variables]

    def task(self, program: str) -> dict[str, Any]:
        """Return ``$task``: within an extension, the task that it extends."""
        if self.position.extended is not None:
            return self.position.extended
        levels = self.position.levels
        extended = [each for each in levels[:-1] if each.phase in ("before", "after")]
        level = extended[0] if extended else levels[-1]
        found = {
            "name": name_of(level.task),
            "reference": level.task,
            "input": level.raw,
            "startedAt": time_of(level.started_at),
        }
        output = level.output if extended else self.raw_output
        if output is not UNSET:
            found["output"] = output
        if "definition" in program or BARE.search(program):
            found["definition"] = self.scene.look_up(self.position, level.task)
        return found

    def _workflow(self, program: str) -> dict[str, Any]:
        data, document = self.scene.data, self.scene.document
        found = {"id": self.scene.instance, "input": data.input}
        found["startedAt"] = time_of(data.started_at)
        if "definition" in program or BARE.search(program):
            found["definition"] = document.content
        return found


def time_of(at: datetime) -> dict[str, Any]:
    """Return a time as expressions get it."""
    milliseconds = round(at.timestamp() * 1_000)
    epoch = {"seconds": milliseconds // 1_000, "milliseconds": milliseconds}
    return {"iso8601": at.isoformat().replace("+00:00", "Z"), "epoch": epoch}
