"""A compiled function: code that can be entered at each of its stops."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from msgspec.structs import replace

from flowstate.engines.kernel.code import (
    At,
    Frame,
    MisfitError,
    Raised,
    Reached,
    Returned,
    Stop,
)
from flowstate.engines.kernel.errors import Cancelled
from flowstate.engines.kernel.operations import Failed, Gave, Operation, Outcome
from flowstate.engines.workflow.compiler.frames import (
    Entry,
    Held,
    read_frame,
    read_name,
    saved_frame,
)
from flowstate.engines.workflow.compiler.visit import Visit
from flowstate.engines.workflow.marking import Defined, Point
from flowstate.engines.workflow.marks import Timeout
from flowstate.engines.workflow.source_waits import SourceWait, source_wait
from flowstate.ground.frozen import EMPTY

__all__ = ["Compiled", "Finish", "finished_timeout"]

Finish = Callable[[Outcome], Outcome]


@attrs.frozen(kw_only=True)
class Compiled:
    """Does what ``Code`` promises, for one function.

    Attributes:
        name: what frames call it.
        data: the type of the data.
        takes: its parameters without the data, and their types.
        gives: the type of its result.
        targets: the helpers and workflows that it names.
        entries: its stops, by name.
        renamed: old names of stops, names and levels, and what they are called now.
        with_sources: names of the waits that have, or may have, sources to be set up.
    """

    name: str
    data: Any
    takes: Mapping[str, Any]
    gives: Any
    targets: Sequence[Defined]
    entries: Mapping[str, Entry]
    renamed: Mapping[str, str]
    function: Any
    parameters: Sequence[Held]
    defaults: Mapping[str, Any]
    points: Sequence[Point]
    is_indexed: Mapping[int, bool]
    finishes: Mapping[str, Finish]
    with_sources: frozenset[str]
    numbered: Sequence[Entry] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "numbered", tuple(self.entries.values()))

    @property
    def stops(self) -> Mapping[str, Stop]:
        """What is known about each stop."""
        return {name: entry.stop for name, entry in self.entries.items()}

    def begin(self, frame: Frame, data: Any) -> Reached:
        """Run from the beginning to the first stop."""
        return self._run(self._visit(0, self._arguments(frame), data))

    def ask(self, frame: Frame, data: Any) -> Operation:
        """Return what is to be done at a stop."""
        wait = self._wait(frame, data)
        return wait.ask(frame, data) if wait else self._asked(frame, data)

    def _asked(self, frame: Frame, data: Any) -> Operation:
        visit = self._entered(frame, data)
        visit.asks = True
        coroutine = self.function(visit)
        try:
            coroutine.send(None)
        except StopIteration:
            raise self._missed(frame) from None
        except BaseException as error:
            visit.detach(error)
            raise
        finally:
            coroutine.close()
            visit.errors.clear()
        if visit.operation is None:
            raise self._missed(frame)
        return visit.operation

    def _wait(self, frame: Frame, data: Any) -> SourceWait | None:
        """Return the wait of a stop, if it has sources."""
        if not self.with_sources or self._renamed(frame.stop) not in self.with_sources:
            return None
        return source_wait(self._asked(frame, data), self.data)

    def go_on(self, frame: Frame, data: Any, outcome: Outcome) -> Reached:
        """Give a stop its outcome, and run to the next one."""
        try:
            wait = self._wait(frame, data)
            taken = wait.take(frame, data, outcome) if wait else outcome
        except (Exception, Cancelled) as error:
            if isinstance(error, MisfitError):
                raise
            taken = Failed(error)
        if isinstance(taken, Frame):
            return At(taken)
        return self._enter(frame, data, taken)

    def _enter(self, frame: Frame, data: Any, outcome: Outcome) -> Reached:
        visit = self._entered(frame, data)
        finish = self.finishes.get(self._renamed(frame.stop))
        visit.outcome = finish(outcome) if finish else outcome
        reached = self._run(visit)
        if not visit.has_arrived:
            raise self._missed(frame) from getattr(reached, "error", None)
        return reached

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless a frame can be entered."""
        if frame.stop:
            self._entered(frame, None)
        else:
            self._arguments(frame)

    def _visit(self, to: int, names: Mapping[str, Any], data: Any) -> Visit:
        return Visit(to, names, data, self.points, self.is_indexed)

    def _arguments(self, frame: Frame) -> Mapping[str, Any]:
        names = dict(self.defaults)
        for held in self.parameters:
            if held.name in frame.names:
                names[held.name] = read_name(held, frame)
            elif held.name not in names:
                raise MisfitError(f"{frame.code}: the argument {held.name!r} is not there")
        return names

    def _entered(self, frame: Frame, data: Any) -> Visit:
        """Return a visit that goes to the stop of a frame."""
        if self.renamed:
            frame = self._with_new_names(frame)
        entry = self.entries.get(frame.stop)
        if entry is None:
            stops = ", ".join(self.entries) or "none"
            raise MisfitError(f"{frame.code}: has no stop {frame.stop!r}; its stops: {stops}")
        visit = self._visit(entry.number, EMPTY, data)
        read_frame(entry, frame, visit)
        return visit

    def _renamed(self, name: str) -> str:
        return self.renamed.get(name, name)

    def _with_new_names(self, frame: Frame) -> Frame:
        names = {self._renamed(name): raw for name, raw in frame.names.items()}
        place = {self._new_key(key): raw for key, raw in frame.place.items()}
        return replace(frame, stop=self._renamed(frame.stop), names=names, place=place)

    def _new_key(self, key: str) -> str:
        kind, _, targets = key.partition(" ")
        if kind != "for":
            return key
        return "for " + ", ".join(self._renamed(each) for each in targets.split(", "))

    def _missed(self, frame: Frame) -> MisfitError:
        return MisfitError(f"{frame.code}: the stop {frame.stop!r} was not reached from its place")

    def _run(self, visit: Visit) -> Reached:
        coroutine = self.function(visit)
        try:
            coroutine.send(None)
            return self._left(coroutine, visit)
        except StopIteration as ended:
            return Returned(ended.value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            visit.restore()
            return Raised(error.with_traceback(self._own_lines(error)))
        finally:
            coroutine.close()
            visit.errors.clear()  # Their tracebacks hold the visit.

    def _left(self, coroutine: Any, visit: Visit) -> Reached:
        """Store what is alive where the function was left."""
        entry = self.numbered[visit.parked - 1]
        try:
            return At(saved_frame(self.name, entry, coroutine.cr_frame.f_locals, visit))
        except TypeError as error:
            # Its traceback is to have the user's line.
            coroutine.throw(error.with_traceback(None))
            raise

    def _own_lines(self, error: BaseException) -> Any:
        """Return the traceback from where it is that of the function."""
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code is not self.function.__code__:
            trace = trace.tb_next
        return trace or error.__traceback__


def finished_timeout(outcome: Outcome) -> Outcome:
    """Return the outcome of a wait that gives a value when its time is over."""
    match outcome:
        case Failed(TimeoutError(args=())):  # That of the whole workflow has a text.
            return Gave(Timeout())
    return outcome
