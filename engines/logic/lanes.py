"""Lanes: threads of an instance that run one item after another of what runs in parallel."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Raw, Struct

from flowstate import encoded
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
from flowstate.engines.kernel.errors import Cancelled
from flowstate.engines.kernel.operations import Failed, Operation, Outcome, Wait
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.logic.problems import of_several, problem_of
from flowstate.engines.logic.reach import is_code
from flowstate.engines.logic.running import find, operation_of
from flowstate.engines.logic.stored import Held
from flowstate.ground.frozen import EMPTY

__all__ = ["Lane"]

RUN = "run"


class Spot(Struct, omit_defaults=True):
    """Where a lane stands.

    Attributes:
        index: of the item that it runs.
        failures: of a subflow, which is started once more.
        pause: seconds until then.
        gave: indices and results of those that it has run.
    """

    index: int
    failures: int = 0
    pause: float | None = None
    gave: list[tuple[int, Raw]] = msgspec.field(default_factory=list)


class Lane(Code):
    """Takes items of ``Held.runs``, one after another, and gives their indices and results.

    With ``wanted`` of ``any`` it returns with the first result, and raises if it has none; with
    ``strict`` it raises at the first failure; else it goes on, since ``Held.failed`` has all.
    """

    version = 0
    gives = list[tuple[int, Raw]]
    data: Any = None
    uses: Mapping[str, Code] = EMPTY
    options = CodeOptions()
    takes: Mapping[str, Any] = {"wanted": str}

    def __init__(self, machine: Any) -> None:
        self.name, self._machine = f"{machine.name}.lane", machine
        self.stops = {RUN: Stop(RUN, "step", names=self.takes)}

    def begin(self, frame: Frame, data: Held[Any]) -> Reached:
        """Take the first item."""
        return self._next(frame, data, [])

    def ask(self, frame: Frame, data: Held[Any]) -> Operation:
        """Return what runs the item, or the pause before it is run again."""
        spot = self._spot(frame)
        if spot.pause is not None:
            return Wait(RUN, (), timedelta(seconds=spot.pause))
        return operation_of(self._machine.known, f"{RUN}[{spot.index}]", data.runs[spot.index])

    def go_on(self, frame: Frame, data: Held[Any], outcome: Outcome) -> Reached:
        """Keep what has come of an item, and take the next one."""
        spot = self._spot(frame)
        if isinstance(outcome, Failed):
            return self._failed(frame, data, spot, outcome.error)
        if spot.pause is not None:
            return _at(frame, Spot(spot.index, spot.failures, gave=spot.gave))
        value = outcome.value[0] if type(outcome.value) is list else outcome.value
        gave = [*spot.gave, (spot.index, encoded("result", value))]
        is_any = decoded(str, frame.names["wanted"]) == "any"
        return Returned(gave) if is_any else self._next(frame, data, gave)

    def _failed(self, frame: Frame, data: Held[Any], spot: Spot, error: BaseException) -> Reached:
        if isinstance(error, Cancelled):
            return Raised(error)
        retry, failures = data.runs[spot.index].retry, spot.failures + 1
        is_flow = is_code(find(self._machine.known, data.runs[spot.index].what))
        if is_flow and retry is not None and retry.meets(error) and failures < retry.attempts:
            pause = min(retry.first * retry.factor ** (failures - 1), retry.longest)
            return _at(frame, Spot(spot.index, failures, pause, spot.gave))
        problem = problem_of(error, retry)
        known = {"index": spot.index, "code": problem.code, "text": problem.text}
        data.failed.append(known)
        if decoded(str, frame.names["wanted"]) == "first":
            return Raised(of_several([known], len(data.runs)))
        return self._next(frame, data, spot.gave)

    def _next(self, frame: Frame, data: Held[Any], gave: list[tuple[int, Raw]]) -> Reached:
        if data.begun < len(data.runs):
            data.begun += 1
            return _at(frame, Spot(data.begun - 1, gave=gave))
        if decoded(str, frame.names["wanted"]) == "any":
            return Raised(of_several(data.failed, len(data.runs)))
        return Returned(gave)

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless a frame can be entered."""
        if frame.stop:
            self._spot(frame)

    def _spot(self, frame: Frame) -> Spot:
        try:
            return decoded(Spot, frame.place["at"])  # type: ignore[no-any-return]
        except (KeyError, msgspec.MsgspecError) as error:
            raise MisfitError(f"{self.name!r} does not stand anywhere: {error}") from error


def _at(frame: Frame, spot: Spot) -> At:
    return At(Frame(frame.code, RUN, frame.names, {"at": encoded("at", spot)}))
