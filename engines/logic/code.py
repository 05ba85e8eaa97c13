"""Machines as code with named stops: a state is a stop."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import attrs
import msgspec

from flowstate import RetryPolicy, encoded
from flowstate.engines.kernel.code import At, Code, Frame, MisfitError, Reached, Stop
from flowstate.engines.kernel.errors import Cancelled, restored
from flowstate.engines.kernel.operations import (
    Call,
    Failed,
    Join,
    Operation,
    Outcome,
    Run,
    StepOptions,
    Wait,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.logic.deciding import decide
from flowstate.engines.logic.events import wait_for
from flowstate.engines.logic.lanes import Lane
from flowstate.engines.logic.problems import ONCE, Retry
from flowstate.engines.logic.progress import CLEANUP, Progress, level_of
from flowstate.engines.logic.reach import Known
from flowstate.engines.logic.running import find, operation_of
from flowstate.engines.logic.stored import Answer, Held, Position, Want
from flowstate.ground.frozen import EMPTY

__all__ = ["MachineCode", "StateOptions"]

MOST_MOVES = 100  # From state to state, until others have their turn for this time.
BREATH = timedelta(milliseconds=1)
PATIENT = StepOptions(retry=RetryPolicy(attempts=5))


@attrs.frozen
class StateOptions:
    """A state of a machine.

    Attributes:
        function: that is asked.
        timeout: of each stay in it.
        catch: states by globs over codes.
        retry: of what it runs, unless that has its own.
    """

    function: Callable[..., Any]
    timeout: timedelta | None = None
    catch: Mapping[str, str] = EMPTY
    retry: Retry | None = None


class MachineCode(Code):
    """Runs the instances of a machine; :class:`Machine` says what its states are."""

    kind: Any
    gives = Any
    takes: Mapping[str, Any] = EMPTY
    known: Known
    states: dict[str, StateOptions]
    catch: Mapping[str, str]
    soft_timeout: timedelta | None
    hard_timeout: timedelta | None
    cleanup_function: Callable[..., Any] | None
    lane: Lane
    patience: float

    def begin(self, frame: Frame, data: Held[Any]) -> Reached:
        """Enter the first state."""
        return Progress(self, frame, data, Position(), next(iter(self.states))).at()

    def ask(self, frame: Frame, data: Held[Any]) -> Operation:
        """Return what asks a state, or what it wants."""
        name, position = frame.stop, self._read(frame)
        want = position.want
        if name == CLEANUP:
            return self._clean(position, data)
        if not position.is_doing or want is None:
            if position.moves == MOST_MOVES:
                return Wait(name, (), BREATH)
            options = StepOptions(ONCE, self.patience, local=True, gives=Answer)
            return Run(name, decide, (self, name, position, data), options=options)
        left = timedelta(seconds=want.left or 0)
        if want.do == "sleep":
            return Wait(name, (), left)
        if want.gathered is not None:
            time = None if want.left is None else left
            return wait_for(name, want.gathered, data.looked, time, data.after)
        operations = [self._runs(name, want, data), Wait("limit", (), left)]
        return operations[0] if want.left is None else Join(name, operations, 1, strict=True)

    def _clean(self, position: Position, data: Held[Any]) -> Operation:
        assert self.cleanup_function is not None  # noqa: S101 - see _read
        error = None if position.error is None else restored(position.error)
        values = decoded(self.kind, encoded("values", data.values))
        return Run(CLEANUP, self.cleanup_function, (values, error), options=PATIENT)

    def _runs(self, name: str, want: Want, data: Held[Any]) -> Operation:
        if want.do == "run":
            return operation_of(self.known, name, want.runs[0])
        is_any = want.do == "any"
        mode = "any" if is_any else "first" if want.strict else "all"
        count = min(want.at_once, len(data.runs))
        lanes = [Call(f"lane {each}", self.lane, {"wanted": mode}) for each in range(count)]
        return Join(name, lanes, 1 if is_any else None)

    def go_on(self, frame: Frame, data: Held[Any], outcome: Outcome) -> Reached:
        """Give a state what has come, or do what it has answered."""
        progress = Progress(self, frame, data, self._read(frame))
        is_cancel = isinstance(outcome, Failed) and isinstance(outcome.error, Cancelled)
        if frame.stop == CLEANUP:
            return At(frame) if is_cancel else progress.cleaned(outcome)
        if progress.position.is_doing:
            return progress.came(outcome)
        if is_cancel:  # What has come is told first, so that nothing of it is lost.
            progress.position.is_cancelled, progress.position.moves = True, 0
            return progress.at()
        if isinstance(outcome, Failed):
            if isinstance(outcome.error.__cause__, MisfitError):
                raise outcome.error.__cause__
            return progress.end(outcome.error)
        if progress.position.moves == MOST_MOVES:
            progress.position.moves = 0
            return progress.at()
        return progress.answered(outcome.value)

    def again(self, frame: Frame) -> tuple[Frame, int]:
        """Return where an operator's retry goes on: before what was cleaned up after."""
        failed = self._read(frame).failed
        return (frame, 0) if failed is None else (failed, 1)

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless a frame can be entered."""
        if frame.stop:
            want = self._read(frame).want
            for ran in want.runs if want else []:
                find(self.known, ran.what)

    def _read(self, frame: Frame) -> Position:
        is_cleanup = frame.stop == CLEANUP and self.cleanup_function is not None
        if frame.stop not in self.states and not is_cleanup:
            raise MisfitError(f"{self.name!r} has no state {frame.stop!r} any more")
        raw = frame.place.get(level_of(frame.stop))
        if raw is None:  # An operator lets it go there.
            return Position()
        try:
            position: Position = decoded(Position, raw)
        except msgspec.MsgspecError as error:
            raise MisfitError(f"{self.name!r}, {frame.stop!r}: {error}") from error
        return position

    def stop_of(self, state: str) -> Stop:
        """Return what the kernel knows about a state."""
        return Stop(state, "step", levels=(level_of(state),))
