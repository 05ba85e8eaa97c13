"""What happens to instances, as their revisions tell it, and as lifecycle events.

Each revision has a trail of what has happened since the one before, so these are only read from the
log: nothing writes them next to it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from flowstate import CodecError, State, Status
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.kernel.instance import DATA, NOTES, OUTCOME, PARKED, Notes
from flowstate.engines.tasks.running.data import Happened, What

__all__ = ["PREFIX", "Phase", "Trails", "lifecycle_event", "phase_of"]

PREFIX = "io.serverlessworkflow"  # Of the types of events; the specification may rename it.
MOST_REMEMBERED = 10_000  # Instances.

Phase = Literal["pending", "running", "waiting", "suspended", "cancelled", "faulted", "completed"]
"""What an instance does, as the specification calls it."""

OUTCOMES: Mapping[str, tuple[Phase, What]] = {
    "done": ("completed", "completed"),
    "failed": ("faulted", "faulted"),
    "cancelled": ("cancelled", "cancelled"),
}
TIMES = {"correlation-started": "startedAt", "correlation-completed": "completedAt"}
ONLY_OF_TASKS = {"created", "retried"}


class Known(Struct):
    """The part of the data of an instance that tells what has happened."""

    definition: str = ""
    trail: Sequence[Happened] = ()
    before: int = 0


Readable = TypeVar("Readable", Known, Notes)


def phase_of(state: State) -> Phase:
    """Return the phase of an instance."""
    if OUTCOME in state.labels or state.status is Status.ENDED:
        return OUTCOMES[state.labels.get(OUTCOME, "failed")][0]
    if PARKED in state.labels or _read(state, Notes, NOTES).paused:
        return "suspended"
    if state.status is Status.PAUSED:
        return "waiting"
    return "running" if _read(state, Known, DATA).before else "pending"


class Trails:
    """Reads what has happened to instances from their revisions, given in order.

    A revision that was made by a timer or a message has the trail of the one before it. The numbers
    tell that, as long as this remembers the instance: it does so for those that changed last.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def read(self, state: State) -> list[tuple[int, Happened]]:
        """Return what is new in a revision: things that have happened, and their numbers.

        There is nothing new in one that cannot be read here, since newer code has stored it.
        """
        known = _read(state, Known, DATA)
        if not known.definition:
            return []
        found = [*enumerate(known.trail, known.before), *_forced(state, known)]
        last = self._last.pop(state.id, (-1, ""))
        new = [
            (number, each)
            for number, each in found
            if number > last[0] or (number == last[0] and f"{each.what} {each.task}" != last[1])
        ]
        if found:
            last = found[-1][0], f"{found[-1][1].what} {found[-1][1].task}"
        self._last[state.id] = last
        if len(self._last) > MOST_REMEMBERED:
            self._last.popitem(last=False)
        return new


def _read(state: State, kind: type[Readable], name: str) -> Readable:
    try:
        return state.get(kind, name, default=kind())
    except CodecError:
        return kind()


def _forced(state: State, known: Known) -> list[tuple[int, Happened]]:
    """Return the end of an instance that its tasks have not noted, such as one by force."""
    if (outcome := state.labels.get(OUTCOME)) is None or state.committed_at is None:
        return []
    what = OUTCOMES[outcome][1]
    if any(not each.task and each.what == what for each in known.trail):
        return []
    return [(known.before + len(known.trail), Happened(what, "", state.committed_at))]


def lifecycle_event(
    state: State, number: int, happened: Happened, *, prefix: str = PREFIX
) -> CloudEvent | None:
    """Return the event about something that has happened; ``None`` if there is none for that.

    Its id is the same whenever it is made.

    Args:
        state: the revision of the instance.
        number: of what has happened.
        happened: see :meth:`Trails.read`.
        prefix: of the types of events.
    """
    if not happened.task and happened.what in ONLY_OF_TASKS:
        return None
    namespace, _, named = state.get(Known, DATA).definition.partition("/")
    name, _, version = named.partition(":")
    own: dict[str, Any] = {"name": f"{name}-{state.id}.{namespace}"}
    if happened.task:
        own = {"workflow": own["name"], "task": happened.task}
    elif happened.what == "started":
        own["definition"] = {"namespace": namespace, "name": name, "version": version}
    at = TIMES.get(happened.what, f"{happened.what}At")
    kind = "task" if happened.task else "workflow"
    return CloudEvent(
        f"{state.id}/{number}/{happened.what}",
        f"/{namespace}/{name}/{state.id}",
        f"{prefix}.{kind}.{happened.what}.v1",
        subject=state.id,
        time=happened.at,
        data={**own, at: msgspec.to_builtins(happened.at), **happened.more},
    )
