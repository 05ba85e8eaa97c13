"""What the kernel is asked to do for tasks."""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import attrs
import msgspec
from msgspec.structs import replace

from flowstate import RetryPolicy, RevisionMismatchError
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.operations import Call, Each, Join, Operation, Run, StepOptions, Wait
from flowstate.engines.kernel.starting import flow_of, new_instance
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.running.calling import STORE_FAILED, perform
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.position import AT, Level, Position, Wanted, encode
from flowstate.engines.tasks.running.scope import Scene
from flowstate.engines.tasks.runtime import Runtime

__all__ = ["BY_STORE", "BranchEndsAll", "Effects"]

# The document says what is tried again, but for what the store refuses.
BY_STORE = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0, on=STORE_FAILED)
LONGEST = 300  # Characters of the path of a branch.


class BranchEndsAll(Exception):  # noqa: N818 - it is no error
    """A branch ends the whole document, with an output."""


@attrs.frozen
class Effects:
    """Makes operations of what tasks want."""

    code: Code
    runtime: Runtime

    def without_document(self, stop: str, position: Position, data: TaskData) -> Operation | None:  # noqa: PLR0911 - one for each kind
        """Return what can be asked for although the document may not be in memory."""
        wanted, level = position.wants, position.levels[-1]
        if wanted is None or not position.is_waiting:
            return None
        match wanted.does:
            case "wait" | "retry":
                return Wait(stop, (), timedelta(seconds=self._left(position, wanted.until) or 0.0))
            case "listen" if level.listening is not None:
                seconds = self._left(position)
                timeout = None if seconds is None else timedelta(seconds=seconds)
                return level.listening.wait(stop, position.seen, data.keys, timeout)
            case "fork":
                return self._fork(stop, position, wanted, data)
            case "workflow" if wanted.name:
                return self._run(stop, position, self._start, position, wanted)
            case "workflow":
                each, left = Each(stop, self.code, [_data(wanted)], 1), self._left(position)
                if left is None:
                    return each
                limit = Wait("timeout", (), timedelta(seconds=left))
                return Join(stop, [each, limit], 1, strict=True, shape=_only)
            case "rest":
                return self._run(stop, position, _rest)
        return None

    def call(self, stop: str, position: Position, data: TaskData, document: Document) -> Operation:
        """Return the step that calls a function."""
        return self._run(stop, position, self._perform, position, data, document)

    def _run(self, stop: str, position: Position, call: Callable[..., Any], *args: Any) -> Run:
        options = StepOptions(BY_STORE, self._left(position))
        return Run(stop, call, args, options=options)

    def _left(self, position: Position, *until: datetime | None) -> float | None:
        """Return how many seconds are left until something, or until a level takes too long."""
        times = [at for at in (*until, position.deadline) if at is not None]
        if not times:
            return None
        return max(0.0, (min(times) - self.runtime.engine.clock.now()).total_seconds())

    async def _perform(self, position: Position, data: TaskData, document: Document) -> Any:
        scene = Scene(self.runtime, document, current_step().instance, data)
        assert position.wants is not None  # noqa: S101 - it is called for that
        return await perform(scene.scope(position, context=data.context), position.wants)

    async def _start(self, position: Position, wanted: Wanted) -> None:
        """Start an instance for which this one does not wait."""
        own = current_step().instance
        id = f"{own}.{_digest(position.key)}"
        ctx = new_instance(self.code, id, _data(wanted), {})
        try:
            await self.runtime.engine.start(ctx, flow_of(self.code.name))
        except RevisionMismatchError:
            return  # It was started before a crash.

    def _fork(self, stop: str, position: Position, wanted: Wanted, data: TaskData) -> Join:
        branches = []
        for index, pointer in enumerate(wanted.args["branches"]):
            branch = self._branch(position, wanted, pointer, index)
            branches.append(Call(pointer, self.code, {AT: encode(branch, data.input)}))
        return Join(stop, branches, 1 if wanted.name == "compete" else None)

    def _branch(self, position: Position, wanted: Wanted, pointer: str, index: int) -> Position:
        outer, now = position.levels[-1], self.runtime.engine.clock.now()
        level = replace(outer, phase="only", value=outer.input, deadline=position.deadline)
        level.nth, level.begun, level.variables = 0, 1, {}
        key = f"{position.key}.{index}"
        return Position(
            [level, Level(pointer, now, 0, outer.input, outer.input, outer.input)],
            path=f"{key if len(key) <= LONGEST else _digest(key)}/",
            is_branch=True,
            is_racing=wanted.name == "compete",
            seen=position.seen,
            variables=position.variables_inside(),
            extended=wanted.args.get("extended") or position.extended,
            fetched=position.fetched,
        )


def _data(wanted: Wanted) -> TaskData:
    return msgspec.convert(wanted.args, TaskData)


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:24]


def _only(values: list[Any]) -> Any:
    return values[0]  # Nothing, if the time is over.


async def _rest() -> None:
    """Let others have their turn; what was done so far is committed."""
