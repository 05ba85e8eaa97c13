"""The kinds of tasks that need nothing from outside."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.advancing import Advance, Kind
from flowstate.engines.tasks.running.position import BranchEnd, Wanted, child_of

__all__ = [
    "DoKind",
    "EmitKind",
    "ForkKind",
    "RaiseKind",
    "SetKind",
    "SwitchKind",
    "WaitKind",
]


class DoKind(Kind):
    """Runs a list of tasks."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        advance.run_list(level, child_of(level.task, "do"), level.input)


class SetKind(Kind):
    """Sets the data."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        await advance.complete(await advance.scope().either(task["set"], level.input))


class SwitchKind(Kind):
    """Goes on with one of several tasks."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        default, scope = "", advance.scope()
        for case in (case for item in task["switch"] for case in item.values()):
            if "when" not in case:
                default = case["then"]
            elif await scope.condition(case["when"], level.input):
                await advance.complete(level.input, case["then"])
                return
        await advance.complete(level.input, default)


class RaiseKind(Kind):
    """Raises an error."""

    async def enter(self, advance: Advance, task: Any) -> None:
        level = advance.level
        error = advance.reusable("errors", task["raise"]["error"])
        found = await advance.scope().template(error, level.input)
        try:
            raised = TaskError.from_json({**found, "instance": found.get("instance", level.task)})
            raised.status = int(raised.status)
        except (TypeError, ValueError) as wrong:
            raise TaskError.of("configuration", f"no error: {wrong}") from wrong
        raise raised


class WaitKind(Kind):
    """Lets time pass."""

    async def enter(self, advance: Advance, task: Any) -> Wanted:
        level = advance.level
        seconds = await advance.seconds(task["wait"], level.input)
        return Wanted("wait", until=advance.now() + timedelta(seconds=seconds))

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> None:
        level = advance.level
        advance.has_slept(wanted)
        await advance.complete(level.input)


class EmitKind(Kind):
    """Publishes an event."""

    async def enter(self, advance: Advance, task: Any) -> Wanted:
        level = advance.level
        event = await advance.scope().template(task["emit"]["event"]["with"], level.input)
        return Wanted("emit", args=event)


class ForkKind(Kind):
    """Runs tasks at once."""

    async def enter(self, advance: Advance, task: Mapping[str, Any]) -> Wanted | None:
        level = advance.level
        list_ = child_of(level.task, "fork", "branches")
        branches = task["fork"].get("branches") or []
        advance.check_total(advance.context, 2 * len(branches) * advance.size_of(level.input))
        pointers = [child_of(list_, at, next(iter(each))) for at, each in enumerate(branches)]
        if not pointers:
            await advance.complete([])
            return None
        args: dict[str, Any] = {"branches": pointers}
        if advance.is_extension:
            args["extended"] = advance.scope().task("$task")
        return Wanted("fork", "compete" if task["fork"].get("compete") else "", args)

    async def took(self, advance: Advance, wanted: Wanted, gave: Any) -> None:
        ends = msgspec.convert(gave, list[BranchEnd])
        position = advance.position
        position.seen = position.seen.joined(each.seen for each in ends)
        for each in ends:
            if each.is_end:
                await advance.end(each.output)
                return
        outputs = [each.output for each in ends]
        await advance.complete(outputs[0] if wanted.name == "compete" else outputs)
