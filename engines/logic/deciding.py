"""Asks a state what it wants next. Nothing is changed in here but copies."""

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Raw, ValidationError
from msgspec.structs import replace

from flowstate import encoded
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.errors import Cancelled as CancelledError
from flowstate.engines.kernel.errors import restored, stored
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.steps import is_async
from flowstate.engines.logic.events import Gathered, as_event
from flowstate.engines.logic.logs import collected
from flowstate.engines.logic.nexts import Next
from flowstate.engines.logic.problems import NextError, Problem
from flowstate.engines.logic.running import result_of
from flowstate.engines.logic.stored import Answer, Held, Position, Want
from flowstate.engines.logic.transforming import transformed
from flowstate.engines.logic.wakes import Cancelled, Entered, Slept, TimedOut, Wake, wake_of

if TYPE_CHECKING:
    from flowstate.engines.logic.code import MachineCode

__all__ = ["decide"]

AT_ONCE = ("to", "stay", "done")


async def decide(machine: "MachineCode", name: str, position: Position, held: Held[Any]) -> Answer:
    """Call a state with a copy of the values and the wake, and return what it answers."""
    now = current_step().engine.clock.now()
    _begin(machine, name, position, now)
    if (hard := position.times.get("hard")) is not None and hard <= now:
        error = Problem("timeout.hard", "the machine has taken too long")
        return Answer(position, crash=stored(error))
    with collected(name) as log:
        try:
            values, want = await _asked(machine, name, position, held)
            is_stay = want.do == "stay"
            want = _stay(position) if is_stay else want
        except Problem as problem:
            return Answer(position, log=log, problem=stored(problem))
        except MisfitError:
            raise
        except (Exception, CancelledError) as error:  # noqa: BLE001 - of the user's function
            return Answer(position, log=log, crash=stored(error))
    _limit(want, position, now, is_new=not is_stay)
    return Answer(replace(position, want=want), values, log)


def _begin(machine: "MachineCode", name: str, position: Position, now: datetime) -> None:
    """Note when what is over, as far as that begins now."""
    times = position.times
    if not position.is_begun:
        if machine.soft_timeout is not None:
            times["machine"] = now + machine.soft_timeout
        if machine.hard_timeout is not None:
            times["hard"] = now + machine.hard_timeout
        position.is_begun = True
    timeout = machine.states[name].timeout
    if position.wake.kind == "entered" and timeout is not None:
        times["state"] = now + timeout


async def _asked(
    machine: "MachineCode", name: str, position: Position, held: Held[Any]
) -> tuple[Raw, Want]:
    """Return the values as a state leaves them, and what it wants."""
    (wake, result), state = _wake(machine, position, held), machine.states[name]
    values = decoded(machine.kind, encoded("values", held.values))
    if position.want is not None and position.wake.kind in ("gave", "slept"):
        values = await transformed(machine.kind, values, position.want.transform, result)
    if is_async(state.function):
        found = await state.function(values, wake)
    else:
        call = partial(state.function, values, wake)
        found = await current_step().engine.call_in_thread(name, call)
    if not isinstance(found, Next):
        _refuse(name, wake, found)
    want = found.want(machine.known, state.retry)
    if want.do == "to" and want.to not in machine.states:
        raise NextError(f"there is no state {want.to!r}; these are: {', '.join(machine.states)}")
    if want.do in AT_ONCE:
        values = await transformed(machine.kind, values, found.transform, result)
    raw = encoded("values", values)
    try:
        decoded(machine.kind, raw)
    except ValidationError as error:
        raise NextError(f"the values are not of their type: {error}") from error
    return raw, want


def _refuse(name: str, wake: Wake, found: Any) -> None:
    """Raise what becomes of an answer that is no ``Next``."""
    if found is None and isinstance(wake, Cancelled):
        raise CancelledError
    if found is None and isinstance(wake, TimedOut):
        code = "timeout.machine" if wake.what == "machine" else "timeout"
        raise Problem(code, f"state {name!r} has taken too long")
    raise NextError(f"state {name!r} must answer {wake!r} by what it wants, not {found!r}")


def _wake(machine: "MachineCode", position: Position, held: Held[Any]) -> tuple[Wake, Any]:
    """Return what a state is told, and what has come back."""
    woken, want = position.wake, position.want
    match woken.kind:
        case "entered":
            problem: Any = None if woken.problem is None else restored(woken.problem)
            return Entered(problem), None
        case "slept":
            return Slept(), None
        case "timeout":
            return TimedOut(woken.what), None  # type: ignore[arg-type] # others are not told
        case "cancelled":
            return Cancelled(), None
    assert want is not None  # noqa: S101 - something has come of it
    if want.gathered is None:
        runs = (want.runs or held.runs)[woken.index :]
        pairs = zip(runs, woken.values, strict=False)
        values = [result_of(machine.known, ran, raw) for ran, raw in pairs]
        plain, index = values, woken.index
    else:
        found = sorted(want.gathered.found.items())
        values, plain = [as_event(each) for _, each in found], [each for _, each in found]
        index = found[0][0]
    is_all = want.form.endswith("All")
    return wake_of(want.form, values, index), plain if is_all else plain[0]


def _stay(position: Position) -> Want:
    want = position.want
    if want is None or want.do not in ("sleep", "await"):
        raise NextError("Stay needs a Sleep, or a wait, that the state has come from")
    gathered = want.gathered
    if gathered is not None and gathered.is_over:
        gathered = Gathered(gathered.filters, gathered.wanted)
    return replace(want, gathered=gathered)


def _limit(want: Want, position: Position, now: datetime, *, is_new: bool) -> None:
    """Note what is over first."""
    times, woken = position.times, position.wake
    is_over = woken.kind == "slept" or (woken.kind == "timeout" and woken.what == "wait")
    if is_over or is_new:
        times.pop("sleep", None), times.pop("wait", None)
    if want.seconds is not None:
        times.setdefault(
            "sleep" if want.do == "sleep" else "wait", now + timedelta(seconds=want.seconds)
        )
    if times:
        want.limit, at = min(times.items(), key=lambda each: each[1])
        want.left = max(0.0, (at - now).total_seconds())
