"""The kinds of tasks that need nothing from outside."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.advancing import Advance, Caught
from flowstate.engines.tasks.running.position import BranchEnd, Level, Wanted, child_of

__all__ = [
    "DoKind",
    "EmitKind",
    "ForkKind",
    "Plain",
    "RaiseKind",
    "SetKind",
    "SwitchKind",
    "WaitKind",
]


class Plain:
    """What most kinds do."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> Wanted | None:
        """Begin."""
        raise NotImplementedError

    async def took(
        self,
        advance: Advance,
        level: Level,  # noqa: ARG002
        wanted: Wanted,  # noqa: ARG002
        gave: Any,
    ) -> Wanted | None:
        """Put out what was given."""
        await advance.complete(gave)
        return None

    async def list_ended(self, advance: Advance, level: Level, task: Any) -> Wanted | None:  # noqa: ARG002
        """Put out what the last task has."""
        await advance.complete(level.value)
        return None

    async def catches(self, advance: Advance, level: Level, error: TaskError) -> Caught:  # noqa: ARG002
        """Catch nothing."""
        return False, None

    def is_late(self, task: Any) -> bool:  # noqa: ARG002
        """Transform the input at once."""
        return False


class DoKind(Plain):
    """Runs a list of tasks."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> None:  # noqa: ARG002
        """Begin with the first one."""
        advance.run_list(level, child_of(level.task, "do"), level.input)


class SetKind(Plain):
    """Sets the data."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> None:
        """Put out the data."""
        await advance.complete(await advance.scope().either(task["set"], level.input))


class SwitchKind(Plain):
    """Goes on with one of several tasks."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> None:
        """Go on with the first case that is true, or else with the default."""
        default, scope = "", advance.scope()
        for case in (case for item in task["switch"] for case in item.values()):
            if "when" not in case:
                default = case["then"]
            elif await scope.condition(case["when"], level.input):
                await advance.complete(level.input, case["then"])
                return
        await advance.complete(level.input, default)


class RaiseKind(Plain):
    """Raises an error."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> None:
        """Raise it."""
        error = advance.reusable("errors", task["raise"]["error"])
        found = await advance.scope().template(error, level.input)
        try:
            raised = TaskError.from_json({**found, "instance": found.get("instance", level.task)})
            raised.status = int(raised.status)
        except (TypeError, ValueError) as wrong:
            raise TaskError.of("configuration", f"no error: {wrong}") from wrong
        raise raised


class WaitKind(Plain):
    """Lets time pass."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> Wanted:
        """Sleep."""
        seconds = await advance.seconds(task["wait"], level.input)
        return Wanted("wait", until=advance.now() + timedelta(seconds=seconds))

    async def took(self, advance: Advance, level: Level, wanted: Wanted, gave: Any) -> None:  # noqa: ARG002
        """Put out the input."""
        advance.has_slept(wanted)
        await advance.complete(level.input)


class EmitKind(Plain):
    """Publishes an event."""

    async def enter(self, advance: Advance, level: Level, task: Any) -> Wanted:
        """Publish it."""
        event = await advance.scope().template(task["emit"]["event"]["with"], level.input)
        return Wanted("emit", args=event)


class ForkKind(Plain):
    """Runs tasks at once."""

    async def enter(self, advance: Advance, level: Level, task: Mapping[str, Any]) -> Wanted | None:
        """Let the branches begin."""
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

    async def took(self, advance: Advance, level: Level, wanted: Wanted, gave: Any) -> None:  # noqa: ARG002
        """Put out what the branches have put out, or the first of them."""
        ends = msgspec.convert(gave, list[BranchEnd])
        position = advance.position
        position.seen = position.seen.joined(each.seen for each in ends)
        for each in ends:
            if each.is_end:
                await advance.end(each.output)
                return
        outputs = [each.output for each in ends]
        await advance.complete(outputs[0] if wanted.name == "compete" else outputs)
