"""The code that runs all documents: what an instance does at each of its stops."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from flowstate.engines.kernel.code import (
    At,
    Code,
    CodeOptions,
    Frame,
    MisfitError,
    Raised,
    Reached,
    Returned,
    Stop,
)
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.errors import Cancelled, ChildFailed, StepFailed
from flowstate.engines.kernel.operations import Failed, Operation, Outcome, Run, StepOptions
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.advancing import Advance, Advanced
from flowstate.engines.tasks.running.data import Happened, TaskData, What, new_revision
from flowstate.engines.tasks.running.effects import BY_STORE, BranchEndsAll, Effects
from flowstate.engines.tasks.running.kinds import KINDS
from flowstate.engines.tasks.running.listening import Seen
from flowstate.engines.tasks.running.position import (
    AT,
    GIVEN,
    BranchEnd,
    Level,
    Position,
    decode,
    encode,
)
from flowstate.engines.tasks.running.scope import Scene
from flowstate.engines.tasks.running.standing import MOST_BYTES, TOO_LARGE
from flowstate.engines.tasks.runtime import Runtime

__all__ = ["NAME", "TaskCode"]

NAME = "tasks"  # Of the code, and so of the flow of all instances.
LOAD = "load"  # The step that brings a document into memory.
START = Raw(b"null")


class Loaded(Struct):
    """A document is in memory now."""


class TaskCode:
    """Runs the instances of all documents; their data is a ``TaskData``.

    Args:
        runtime: what tasks are given from outside.
    """

    name = NAME
    version = 0
    takes: Mapping[str, Any] = {AT: Raw}
    gives: Any = Any
    data: Any = TaskData
    uses: Mapping[str, Code] = {}

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stops: Mapping[str, Stop] = {"": Stop("", "step")}
        self.options = CodeOptions(
            new_revision=new_revision,
            labels=_labels,
            again=self._again,
            told=self._told,
            retry=BY_STORE,
        )
        self._effects = Effects(self, runtime)

    def begin(self, frame: Frame, data: TaskData) -> Reached:
        """Stand before the first task."""
        if AT in frame.names:
            position = self.position(frame)
            level = position.levels[-1]
            data.trail.append(Happened("created", level.task, level.started_at))
            return At(replace(frame, stop=level.task))
        level = Level("", data.started_at, 0, data.input, data.input, data.input)
        position = Position([level], seen=Seen(data.after))
        data.trail.append(Happened("started", "", data.started_at))
        return At(Frame(NAME, "/do", {AT: encode(position, data.input)}))

    def check(self, frame: Frame) -> None:
        """Refuse a frame that is none of a document."""
        if frame.stop:
            self.position(frame)

    def position(self, frame: Frame, given: Any = GIVEN) -> Position:
        """Return the position in a frame."""
        return decode(frame.names.get(AT, START), given)

    def ask(self, frame: Frame, data: TaskData) -> Operation:
        """Return what is to be done."""
        position = self.position(frame, data.input)
        operation = self._effects.without_document(frame.stop, position, data)
        if operation is not None:
            return operation
        document = self.runtime.documents.get(data.definition)
        if document is None:
            options = StepOptions(BY_STORE, local=True, gives=Loaded)
            return Run(LOAD, self._load, (data.definition,), options=options)
        if position.is_waiting:
            return self._effects.call(frame.stop, position, data, document)
        options = StepOptions(BY_STORE, local=True, gives=Advanced)
        return Run(frame.stop, self._advance, (position, data, document), options=options)

    async def _load(self, key: str) -> Loaded:
        await self.runtime.documents.load(key)
        return Loaded()

    async def _advance(self, position: Position, data: TaskData, document: Document) -> Raw:
        scene = Scene(self.runtime, document, current_step().instance, data)
        with self.runtime.engine.clock.working():  # Expressions are evaluated elsewhere.
            advanced = await Advance(scene, position, data.context, kinds=KINDS).run()
        return Raw(msgspec.json.encode(advanced))  # Which needs no further check.

    def go_on(self, frame: Frame, data: TaskData, outcome: Outcome) -> Reached:
        """Take what was done, and say where to go on."""
        failure = outcome.error if isinstance(outcome, Failed) else None
        value = None if isinstance(outcome, Failed) else outcome.value
        if isinstance(value, Loaded):
            return At(frame)
        if isinstance(failure, StepFailed) and failure.step == LOAD:
            raise MisfitError(f"there is no document {data.definition!r}: {failure}")
        if failure is not None and isinstance(failure.__cause__, MisfitError):
            raise failure.__cause__  # The document is another one than when this was stored.
        position = self.position(frame, data.input)
        if isinstance(failure, Cancelled):
            self._note_cancel(position, data)
            return Raised(failure)
        if isinstance(value, Advanced):
            return self._advanced(frame, data, position, value)
        if position.failed is not None and failure is not None:
            return Raised(TaskError.from_json(position.failed))  # It cannot be stored otherwise.
        wants = position.wants
        if wants and (wants.does, wants.name, value) == ("workflow", "", None):
            failure = failure or TimeoutError()
        if failure is not None:
            _fail(position, failure)
        elif position.wants is not None and position.wants.does != "rest":
            position.gave = value
        else:
            position.wants = None
        return At(replace(frame, names={AT: _bounded(position, data.input)}))

    def _advanced(
        self, frame: Frame, data: TaskData, position: Position, advanced: Advanced
    ) -> Reached:
        if advanced.keys is not UNSET:
            if data.exports != advanced.exports:
                return At(frame)  # Another branch has set them meanwhile: once more.
            data.context, data.keys = advanced.context, advanced.keys
            data.exports += 1
        data.trail += advanced.trail
        if advanced.failed is not None:
            return Raised(TaskError.from_json(advanced.failed))
        if advanced.position is not UNSET:
            return At(Frame(NAME, advanced.stop, {AT: advanced.position}))
        if not position.is_branch:
            return Returned(advanced.output)
        if advanced.is_end and not position.is_racing:
            return Raised(BranchEndsAll(advanced.output))
        return Returned(BranchEnd(advanced.output, advanced.seen, advanced.is_end))

    def _told(self, data: TaskData, word: str, stops: Sequence[str]) -> None:
        what: What = "suspended" if word == "pause" else "resumed"
        now = self.runtime.engine.clock.now()
        tasks = [each for each in dict.fromkeys(stops) if each.startswith("/do/")]
        data.trail += [Happened(what, each, now) for each in ("", *tasks)]

    def _note_cancel(self, position: Position, data: TaskData) -> None:
        now = self.runtime.engine.clock.now()
        levels = position.levels[1 if position.is_branch else 0 :]
        data.trail += [Happened("cancelled", each.task, now) for each in reversed(levels)]

    def _again(self, frame: Frame) -> tuple[Frame, int]:
        """Return where an operator's retry goes on: what has failed is done once more."""
        position, now = self.position(frame), self.runtime.engine.clock.now()
        back = 0 if position.failed is None else 1
        position.failed, position.timed_out = None, False
        for level in position.levels:
            if level.deadline is not None and level.deadline <= now:
                level.deadline = None
        return replace(frame, names={AT: encode(position)}), back


def _labels(data: TaskData) -> Mapping[str, str]:
    name, _, version = data.definition.rpartition(":")
    return {"definition": name, "definition_version": version}


def _fail(position: Position, failure: BaseException) -> None:
    """Note why what was wanted was not done."""
    cause = failure.__cause__ if isinstance(failure, StepFailed | ChildFailed) else failure
    if isinstance(failure, BranchEndsAll):
        end = BranchEnd(failure.args[0], Seen(), is_end=True)
        position.gave = [msgspec.to_builtins(end)]
    elif isinstance(cause, TimeoutError):
        position.timed_out = True
        position.failed = TaskError.of("timeout", "it has taken longer than it may").to_json()
    elif isinstance(cause, TaskError):
        position.failed = cause.to_json()
        if isinstance(failure, ChildFailed):
            position.failed.pop("instance", None)  # It is of another document.
    else:
        text = "it was cancelled" if isinstance(cause, Cancelled) else str(cause or failure)
        position.failed = TaskError.of("runtime", text).to_json()


def _bounded(position: Position, given: Any) -> Raw:
    """Return the stored form of a position, which must be small enough to be stored."""
    raw = encode(position, given)
    if memoryview(raw).nbytes <= MOST_BYTES:
        return raw
    position.gave = UNSET
    position.failed = TaskError.of("runtime", TOO_LARGE).to_json()
    return encode(position, given)
