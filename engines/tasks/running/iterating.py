"""Tasks that run others for each of some items."""

from collections.abc import Mapping
from typing import Any

import msgspec

from flowstate.engines.kernel.outside import Published
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.advancing import Advance, Kind
from flowstate.engines.tasks.running.listening import begin
from flowstate.engines.tasks.running.position import Level, Wanted, child_of
from flowstate.engines.tasks.running.schemas import check_schema

__all__ = ["ForKind", "ListenKind", "gather", "pass_on"]


class ForKind(Kind):
    """Runs tasks for each item of a list."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        items = await advance.scope().either(task["for"]["in"], level.input)
        if not isinstance(items, list):
            raise TaskError.of("expression", "for.in has not given an array")
        level.rest = items[::-1]
        await self._pass(advance, level, task)

    async def list_ended(self, advance: Advance, task: Any) -> None:
        level = advance.level
        if level.exited:
            await advance.complete(level.value)
        else:
            await self._pass(advance, level, task)

    async def _pass(self, advance: Advance, level: Level, task: Any) -> None:
        if not level.rest:
            await advance.complete(level.value)
            return
        item = level.rest.pop()
        names = task["for"].get("each", "item"), task["for"].get("at", "index")
        level.variables = dict(zip(names, (item, level.passes), strict=True))
        level.passes += 1
        if "while" in task and not await advance.scope().condition(task["while"], level.value):
            await advance.complete(level.value)
        else:
            advance.run_list(level, child_of(level.task, "do"), level.value)


class ListenKind(Kind):
    """Waits for events, and runs tasks for each of them."""

    async def enter(self, advance: Advance, task: Any) -> Wanted | None:
        level = advance.level
        is_iterated = "foreach" in task
        scope = advance.scope()
        level.listening = await begin(task["listen"], scope, level.input, is_iterated=is_iterated)
        advance.note_whole("correlation-started")
        return await self._next(advance, level, task)

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> Wanted | None:
        level = advance.level
        if level.listening is not None:
            level.listening.queue = msgspec.convert(gave, list[Published])
        return await self._next(advance, level, advance.definition())

    async def list_ended(self, advance: Advance, task: Any) -> Wanted | None:
        level = advance.level
        value = await gather(advance, task["foreach"], level.value)
        if level.listening is not None:
            level.listening.append(value)
        level.variables = {}
        if level.exited:
            await self._end(advance, level)
            return None
        return await self._next(advance, level, task)

    async def _next(self, advance: Advance, level: Level, task: Any) -> Wanted | None:
        scope, listening = advance.scope(), level.listening
        assert listening is not None  # noqa: S101 - it has begun
        if await listening.is_over(scope):
            await self._end(advance, level)
            return None
        item = await advance.take(listening)
        if item is not None:
            pointer = child_of(level.task, "foreach")
            pass_on(advance, level, task["foreach"], pointer, item.value)
        elif not await listening.is_over(scope):
            return Wanted("listen")
        else:
            await self._end(advance, level)
        return None

    async def _end(self, advance: Advance, level: Level) -> None:
        assert level.listening is not None  # noqa: S101 - it has begun
        advance.note_whole("correlation-completed", correlationKeys=advance.keys)
        output = level.listening.output
        level.listening = None
        await advance.complete(output)


def pass_on(
    advance: Advance, level: Level, foreach: Mapping[str, Any], pointer: str, item: Any
) -> None:
    """Run the tasks of ``foreach``, which is at a JSON pointer, for an event or a message."""
    index, level.passes = level.passes, level.passes + 1
    level.variables = {foreach.get("item", "item"): item, foreach.get("at", "index"): index}
    advance.run_list(level, child_of(pointer, "do") if "do" in foreach else "", item)


async def gather(advance: Advance, foreach: Mapping[str, Any], value: Any) -> Any:
    """Return the output for an event or a message, from the last of the tasks of ``foreach``."""
    given, output = foreach.get("output") or {}, value
    if "as" in given:
        output = await advance.scope().either(given["as"], value)
    if "schema" in given:
        await check_schema(given["schema"], output, advance, "the output for an item")
    if "export" in foreach:
        await advance.export(foreach["export"], output, advance.scope(output=output))
    return output
