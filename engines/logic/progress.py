"""What becomes of an instance when a state has answered, or when something has come."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Raw
from msgspec.structs import replace

from flowstate import encoded
from flowstate.engines.kernel.code import At, Frame, Raised, Reached, Returned
from flowstate.engines.kernel.errors import Cancelled, restored, stored, text_of
from flowstate.engines.kernel.operations import Failed, Outcome
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.logic.problems import Problem, catcher_of, of_several, problem_of
from flowstate.engines.logic.stored import Answer, Entry, Held, Position, Want, Woken
from flowstate.engines.logic.variables import changed_here

if TYPE_CHECKING:
    from flowstate.engines.logic.code import MachineCode

__all__ = ["CLEANUP", "Progress", "level_of"]

CLEANUP = "$cleanup"
MOST_CAUGHT = 10  # Problems in a row, without anything that has come to its end.
OF_MACHINE = ("machine", "hard")


def level_of(state: str) -> str:
    """Return by which name the place of a frame has the position in a state."""
    return f"in {state}"


@attrs.define
class Progress:
    """An instance that moves on. Each method returns where it stands then.

    Attributes:
        machine: whose instance it is.
        frame: at which it has stood.
        data: is changed.
        position: is changed.
        state: in which it stands.
    """

    machine: "MachineCode"
    frame: Frame
    data: Held[Any]
    position: Position
    state: str = attrs.field()

    @state.default
    def _state(self) -> str:
        return self.frame.stop

    @property
    def want(self) -> Want:
        """What the state wanted last."""
        assert self.position.want is not None  # noqa: S101 - asked for when it is done
        return self.position.want

    def at(self) -> At:
        """Stand there."""
        place = {level_of(self.state): encoded("position", self.position)}
        return At(Frame(self.machine.name, self.state, place=place, version=self.machine.version))

    def answered(self, answer: Answer) -> Reached:
        """Do what a state has answered."""
        self.data.log += answer.log
        self.position = replace(answer.position, is_cancelled=self.position.is_cancelled)
        if answer.crash is not None:
            return self.end(restored(answer.crash))
        if answer.problem is not None:
            return self.caught(restored(answer.problem))
        self.data.values = decoded(self.machine.kind, answer.values)
        want, is_parallel = self.want, self.want.do in ("all", "any")
        self.data.run(want.runs if is_parallel else [])
        self.data.fails = want.fails or self.data.fails
        if want.do == "done":
            return self.end(None, want.result)
        if want.do == "to":
            return self.enter(want.to, Woken(), self.position.moves + 1)
        if is_parallel:
            want.runs = []
        return self._begin(want)

    def _begin(self, want: Want) -> Reached:
        if self.position.is_cancelled:
            return self.cancelled()
        if want.left == 0 and want.limit != "sleep":
            return self.late()
        self.position.is_doing = True
        return self.at()

    def came(self, outcome: Outcome) -> Reached:
        """Wake the state by what has come of what it wanted."""
        want = self.want
        self.position.is_doing, self.position.moves = False, 0
        if isinstance(outcome, Failed):
            return self._failed(outcome.error)
        value = outcome.value
        if want.do == "await":
            return self._gathered(value)
        is_late = want.do != "sleep" and want.left is not None and value == [None]
        if is_late or (want.do == "sleep" and want.limit != "sleep"):
            return self.late()  # Only the time gives nothing, not even JSON.
        if want.do == "sleep":
            return self.woken(Woken("slept"))
        if want.do != "any" and self.data.failed:
            return self.caught(of_several(self.data.failed, len(self.data.runs)))
        value = value if want.left is None else value[0]
        return self.woken(self._gave(want, value))

    def _gave(self, want: Want, value: Any) -> Woken:
        if want.do == "run":
            changed_here(self.data, want.runs[0])
            value = value[0] if type(value) is list else value  # As of one child.
            return Woken("gave", values=[encoded("result", value)])
        pairs = sorted((pair for lane in value for pair in lane), key=lambda each: each[0])
        return Woken("gave", values=[raw for _, raw in pairs], index=pairs[0][0] if pairs else 0)

    def _failed(self, error: BaseException) -> Reached:
        if isinstance(error, Cancelled):
            return self.cancelled()
        if self.want.do == "await" and isinstance(error, TimeoutError):
            return self.late()
        if self.data.failed:
            return self.caught(of_several(self.data.failed, len(self.data.runs)))
        return self.caught(problem_of(error, self.want.runs[0].retry if self.want.runs else None))

    def _gathered(self, value: Any) -> Reached:
        """Keep events that have come; wake the state if these were all."""
        gathered = self.want.gathered
        assert gathered is not None  # noqa: S101 - of a wait
        if isinstance(value, tuple):
            gathered.give(value[1])  # It was sent to this instance.
        else:
            gathered.look(value, self.data.looked)
        if gathered.is_over:
            return self.woken(Woken("gave"))
        self.position.is_doing = True
        return self.at()

    def woken(self, woken: Woken) -> Reached:
        """Let the state be told something."""
        if woken.kind in ("slept", "gave"):
            self.data.caught = 0
        self.position.wake = woken
        return self.at()

    def cancelled(self) -> Reached:
        """Tell the state that the instance is cancelled."""
        self.data.is_cancelled, self.position.is_cancelled = True, False
        return self.woken(Woken("cancelled"))

    def late(self) -> Reached:
        """Tell the state that a time is over, only once."""
        limit = self.want.limit
        if limit == "hard":
            return self.end(Problem("timeout.hard", "the machine has taken too long"))
        if limit != "wait":
            self.position.times.pop(limit, None)
        return self.woken(Woken("timeout", what=limit))

    def enter(self, state: str, woken: Woken, moves: int = 0) -> Reached:
        """Go to a state."""
        old = self.position
        times = {key: at for key, at in old.times.items() if key in OF_MACHINE}
        self.position = Position(woken, is_begun=old.is_begun, moves=moves, times=times)
        self.state = state
        return self.cancelled() if old.is_cancelled else self.at()

    def caught(self, problem: Any) -> Reached:
        """Go to the state that catches a problem, or end with it."""
        catch = self.machine.states[self.state].catch
        to = catcher_of(problem.code, catch, self.machine.catch)
        self.data.caught += 1
        if to is None or self.data.caught > MOST_CAUGHT:
            return self.end(problem)
        entry = Entry(self.state, f"{problem}: {to!r} catches it"[:1_000], "warning")
        self.data.log.append(entry)
        self.data.run([])
        return self.enter(to, Woken(problem=stored(problem)))

    def end(self, error: BaseException | None, result: Sequence[Raw] = ()) -> Reached:
        """Clean up, if that is wanted, and end."""
        if error is None and self.data.is_cancelled:
            error = Cancelled()
        if error is None and self.data.fails is not None:
            error = restored(self.data.fails)
        self.data.run([] if error is None else self.data.runs)  # An operator may try again.
        if error is None:
            self.data.looked = {}
        if self.machine.cleanup_function is None:
            return self._over(error, result)
        self.state, self.position = CLEANUP, Position(ending=[*result])
        if error is not None:
            self.position.error, self.position.failed = stored(error), self.frame
        return self.at()

    def cleaned(self, outcome: Outcome) -> Reached:
        """End as was wanted before it was cleaned up."""
        error = None if self.position.error is None else restored(self.position.error)
        if isinstance(outcome, Failed):
            self.data.log.append(Entry(CLEANUP, text_of(outcome.error), "error"))
            error = error or outcome.error
        return self._over(error, self.position.ending)

    def _over(self, error: BaseException | None, result: Sequence[Raw]) -> Reached:
        if error is not None:
            return Raised(error)
        return Returned(result[0] if result else encoded("result", self.data.values))
