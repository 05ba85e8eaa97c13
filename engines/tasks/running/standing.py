"""Where a thread stands in a document, while it goes on: what all kinds of tasks use."""

from datetime import datetime, timedelta
from typing import Any

import attrs
import msgspec
from msgspec import UNSET

from flowstate.engines.tasks.calls.resources import parsed
from flowstate.engines.tasks.durations import seconds_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.data import Happened, What
from flowstate.engines.tasks.running.describing import call_of
from flowstate.engines.tasks.running.listening import Item, Listening
from flowstate.engines.tasks.running.position import Level, Position, Wanted
from flowstate.engines.tasks.running.scope import Scene, Scope
from flowstate.ground.limits import MAX_VALUES_BYTES

__all__ = ["MOST_BYTES", "Standing", "TOO_LARGE"]

BUDGET = 100  # Tasks that begin, and passes of loops, before others have their turn.
DEEPEST = 100  # Tasks within each other.
MOST_BYTES = MAX_VALUES_BYTES // 2  # Of a position, and of the context.
MOST_TOTAL = MAX_VALUES_BYTES - 131_072  # Of these, and of the input of the instance.
TOO_LARGE = f"the data would have more than {MOST_BYTES} bytes"


@attrs.define(eq=False)
class Standing:
    """A thread that goes on.

    Attributes:
        scene: of the instance.
        position: is changed in place.
        context: ``$context``.
        trail: what has happened.
        keys: by which events correlate.
        exports: how often the context or the keys had been set.
        is_exported: they were set.
        left: what may begin before others have their turn.
    """

    scene: Scene
    position: Position
    context: Any
    trail: list[Happened] = attrs.field(init=False, factory=list)
    keys: dict[str, Any] = attrs.field(init=False)
    exports: int = attrs.field(init=False)
    is_exported: bool = attrs.field(init=False, default=False)
    left: int = attrs.field(init=False, default=BUDGET)

    def __attrs_post_init__(self) -> None:
        self.keys, self.exports = dict(self.scene.data.keys), self.scene.data.exports

    @property
    def level(self) -> Level:
        """The innermost one."""
        return self.position.levels[-1]

    def definition(self) -> Any:
        """Return the definition of the innermost task."""
        return self.look_up(self.level.task)

    def look_up(self, pointer: str) -> Any:
        """Return a part of the document."""
        return self.scene.look_up(self.position, pointer)

    def reusable(self, kind: str, named: Any) -> Any:
        """Return what is written inline, or is named and among ``use``.

        Raises:
            TaskError: there is none of that name.
        """
        if not isinstance(named, str):
            return named
        found = (self.scene.document.content.get("use") or {}).get(kind) or {}
        if named not in found:
            raise TaskError.of("configuration", f"use.{kind} has no {named!r}")
        return found[named]

    def scope(self, **more: Any) -> Scope:
        """Return the scope of the innermost task."""
        return self.scene.scope(self.position, context=self.context, **more)

    async def seconds(self, duration: Any, value: Any) -> float:
        """Return the seconds of a duration of the document."""
        written = await self.scope().template(duration, value)
        try:
            return seconds_of(written)
        except ValueError as error:
            raise TaskError.of("configuration", str(error)) from error

    def now(self) -> datetime:
        """Return the time."""
        return self.scene.runtime.engine.clock.now()

    def note(self, what: What, level: Level, **more: Any) -> None:
        """Add to the trail."""
        self.trail.append(Happened(what, level.task, self.now(), more))

    def note_whole(self, what: What, **more: Any) -> None:
        """Add to the trail what has happened to the whole document."""
        self.trail.append(Happened(what, "", self.now(), more))

    async def take(self, listening: Listening) -> Item | None:
        """Take events that a task has been given; return one to be iterated over."""
        before = dict(self.keys)
        try:
            return await listening.next(self.position.seen, self.keys, self.scope())
        finally:
            self.is_exported = self.is_exported or before != self.keys

    def has_slept(self, wanted: Wanted) -> None:
        """Raise if the time of a level was over before a sleep was."""
        first = self.position.deadline
        if first is not None and wanted.until is not None and first < wanted.until:
            self.times_out()

    async def resource(self, source: Any) -> Any:
        """Return JSON or YAML from outside of the document."""
        return await parsed(source, call_of(self.scope()))

    def push(self, pointer: str, raw: Any) -> None:
        """Let a task begin within the innermost one."""
        outer = self.level
        if len(self.position.levels) >= DEEPEST:
            raise TaskError.of("runtime", f"more than {DEEPEST} tasks are within each other")
        level = Level(pointer, self.now(), outer.begun, raw, raw, raw)
        outer.begun += 1
        self.left -= 1
        self.position.levels.append(level)
        self.note("created", level)

    def run_list(self, level: Level, pointer: str, value: Any) -> None:
        """Let a list of tasks run within the innermost one."""
        level.list, level.index, level.value, level.exited = pointer, 0, value, False

    @property
    def is_extension(self) -> bool:
        """Whether the innermost task is part of an extension."""
        is_within = any(each.phase in ("before", "after") for each in self.position.levels[:-1])
        return is_within or self.position.extended is not None

    def size_of(self, output: Any) -> int:
        """Return the bytes of an output, unless they are too many."""
        size = len(msgspec.json.encode(output))
        if size > MOST_BYTES:
            raise TaskError.of("runtime", TOO_LARGE)
        return size

    def check_total(self, context: Any, size: int) -> None:
        """Refuse so many bytes, with a context and the input, that could not be stored."""
        parts = (context, self.scene.data.input)
        if size + sum(len(msgspec.json.encode(each)) for each in parts) > MOST_TOTAL:
            raise TaskError.of("runtime", f"the data would have more than {MOST_TOTAL} bytes")

    def later(self, seconds: float) -> datetime:
        """Return the time so many seconds from now."""
        return self.now() + timedelta(seconds=seconds)

    def check_deadlines(self) -> None:
        """Raise at the innermost level that has taken too long."""
        now, levels = self.now(), self.position.levels
        for depth in range(len(levels) - 1, -1, -1):
            level = levels[depth]
            is_attempt = level.attempt_deadline is not None and level.attempt_deadline <= now
            if is_attempt or (level.deadline is not None and level.deadline <= now):
                self._time_out(depth, is_attempt=is_attempt)

    def _time_out(self, depth: int, *, is_attempt: bool) -> None:
        level = self.position.levels[depth]
        for each in reversed(self.position.levels[depth + 1 :]):
            self.note("cancelled", each)
        del self.position.levels[depth + 1 :]
        position = self.position
        position.wants, position.gave, position.failed = None, UNSET, None
        if is_attempt:
            level.attempt_deadline = None
        else:
            level.deadline, level.phase = None, "done"
        error = TaskError.of("timeout", "it has taken longer than it may")
        error.instance = level.task
        raise error

    def times_out(self) -> None:
        """Raise at the level whose time an effect has used up, if there is one."""
        first = self.position.deadline
        for depth, level in enumerate(self.position.levels):
            if first is not None and first in (level.deadline, level.attempt_deadline):
                self._time_out(depth, is_attempt=first == level.attempt_deadline)
