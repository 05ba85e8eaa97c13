"""Instances as they are shown: what each is, where it stands, and what has happened to it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from flowstate import Engine, GetStates, State, Status
from flowstate.engines.kernel.errors import StoredError, restored
from flowstate.engines.kernel.instance import (
    DATA,
    ERROR,
    OUTCOME,
    RESULT,
    STOP,
    WORKFLOW,
    Codes,
)
from flowstate.engines.kernel.outside import AWAITS
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.code import NAME as CODE
from flowstate.engines.tasks.running.data import Happened, TaskData
from flowstate.engines.tasks.running.lifecycle import Phase, Trails, phase_of
from flowstate.engines.tasks.service.definitions import DEFINITION, DEFINITION_VERSION
from flowstate.engines.workflow.explaining import Standing, explain
from flowstate.ground.frozen import EMPTY

__all__ = [
    "CODE",
    "Details",
    "Listing",
    "Moment",
    "Moments",
    "Summary",
    "Wanted",
    "details_of",
    "error_of",
    "listing",
    "moments_of",
]

MOST = 1_000  # Revisions among the details of an instance.
HIDDEN = frozenset({WORKFLOW, STOP, OUTCOME, DEFINITION, DEFINITION_VERSION})

CONDITIONS: Mapping[Phase, tuple[Status, Mapping[str, str]]] = {
    "pending": (Status.ACTIVE, EMPTY),
    "running": (Status.ACTIVE, EMPTY),
    "waiting": (Status.PAUSED, EMPTY),
    "suspended": (Status.PAUSED, EMPTY),
    "completed": (Status.ENDED, {OUTCOME: "done"}),
    "faulted": (Status.ENDED, {OUTCOME: "failed"}),
    "cancelled": (Status.ENDED, {OUTCOME: "cancelled"}),
}


class Summary(Struct, frozen=True, kw_only=True):
    """What a list tells of an instance.

    Attributes:
        id: of the instance.
        definition: ``namespace/name`` of its document.
        version: of its document.
        phase: what it does.
        task: the JSON pointer of the task at which it stands or stood last; empty if unknown.
        changed_at: when its last revision was committed.
        rev: of that.
        labels: that were given when it was started; ``parent`` of a child.
    """

    id: str
    definition: str
    version: str
    phase: Phase
    task: str
    changed_at: datetime | None
    rev: int
    labels: Mapping[str, str]

    @classmethod
    def of(cls, state: State) -> "Summary":
        """Return the summary of an instance."""
        labels = state.labels
        return cls(
            id=state.id,
            definition=labels.get(DEFINITION, ""),
            version=labels.get(DEFINITION_VERSION, ""),
            phase=phase_of(state),
            task=labels.get(STOP, ""),
            changed_at=state.committed_at,
            rev=state.rev,
            labels={key: labels[key] for key in labels if not _is_hidden(key)},
        )


class Moment(Struct, frozen=True, kw_only=True):
    """A revision of an instance.

    Attributes:
        id: of the instance.
        definition: ``namespace/name`` of its document.
        rev: the revision.
        at: when it was committed.
        phase: of the instance then.
        task: where it stood then.
        happened: what happened since the revision before.
        number: of the first of that. Numbers of an instance rise by one, for ever; what has a
            number that is known is told again.
    """

    id: str
    definition: str
    rev: int
    at: datetime | None
    phase: Phase
    task: str
    happened: Sequence[Happened]
    number: int

    @classmethod
    def of(cls, state: State, trails: Trails) -> "Moment":
        """Return what a revision tells, after those before it."""
        labels, trail = state.labels, trails.read(state)
        return cls(
            id=state.id,
            definition=labels.get(DEFINITION, ""),
            rev=state.rev,
            at=state.committed_at,
            phase=phase_of(state),
            task=labels.get(STOP, ""),
            happened=[each for _, each in trail],
            number=trail[0][0] if trail else 0,
        )


class Moments(Struct, frozen=True):
    """A page of the history of an instance.

    Attributes:
        moments: the oldest first.
        next: where the next page begins; 0: there is none.
    """

    moments: Sequence[Moment]
    next: int


class Details(Summary, frozen=True, kw_only=True):
    """An instance.

    Attributes:
        started_at: when it was started.
        input: as it was given.
        context: as it is now.
        output: of a completed one.
        error: of a faulted one, as problem details.
        stands: where each of its threads stands, since when, and what it waits for.
        next_at: when it goes on by itself at the latest, if that is known.
        transitions: its first 1,000 revisions that are stored, with what happened in each.
    """

    started_at: datetime
    input: Any
    context: Any
    output: Any
    error: Mapping[str, Any] | None
    stands: Sequence[Standing]
    next_at: datetime | None
    transitions: Sequence[Moment]


class Listing(Struct, frozen=True):
    """A page of instances.

    Attributes:
        instances: in the order of their last changes.
        next: where the next page begins; 0: there is none.
    """

    instances: Sequence[Summary]
    next: int


class Wanted(Struct, frozen=True, kw_only=True):
    """Which instances are listed.

    Attributes:
        definition: only of this ``namespace/name``.
        version: only of this version.
        phase: only in this phase.
        task: only those that stand at the task with this JSON pointer.
        labels: only those with these labels.
        since: only those that have changed at this time or later.
        before: only those that have changed before this time.
        after: where the page begins; ``Listing.next`` of the page before.
        limit: at most so many, from 1 to 1,000. There may be fewer although more follow.
    """

    definition: str = ""
    version: str = ""
    phase: Phase | None = None
    task: str = ""
    labels: Mapping[str, str] = EMPTY
    since: datetime | None = None
    before: datetime | None = None
    after: int = 0
    limit: int = 100

    def query(self) -> GetStates:
        """Return what the store is asked.

        Raises:
            InvalidInputError: a time has no zone, or a number is out of range.
        """
        status, outcome = (None, EMPTY) if self.phase is None else CONDITIONS[self.phase]
        own = {DEFINITION: self.definition, DEFINITION_VERSION: self.version, STOP: self.task}
        labels = {**self.labels, **outcome, **{key: own[key] for key in own if own[key]}}
        return GetStates(
            labels or {WORKFLOW: CODE},  # One more would cost; few others have such labels.
            since_rev=self.after,
            since_time=self.since,
            committed_before=self.before,
            latest_only=True,
            status=status,
            limit=self.limit,
        )


def _is_hidden(label: str) -> bool:
    return label in HIDDEN or label.startswith(AWAITS)


async def listing(engine: Engine, wanted: Wanted) -> Listing:
    """Return a page of instances."""
    page = await engine.do(wanted.query())
    own = [state for state in page.states if state.labels.get(WORKFLOW) == CODE]
    found = [each for each in map(Summary.of, own) if wanted.phase in (None, each.phase)]
    return Listing(found, page.cursor if page.more else 0)


async def moments_of(engine: Engine, id: str, after: int, limit: int) -> Moments:
    """Return a page of the revisions of an instance that are stored."""
    page = await engine.get_states(id=id, since_rev=after, limit=limit)
    trails = Trails()
    own = [state for state in page.states if state.labels.get(WORKFLOW) == CODE]
    found = [Moment.of(state, trails) for state in own]
    return Moments(found, page.cursor if page.more else 0)


async def details_of(engine: Engine, codes: Codes, state: State) -> Details:
    """Return all that is known about an instance."""
    data = state.get(TaskData, DATA)
    stands = (await explain(engine, codes, state.id)).threads
    error = state.get(StoredError, ERROR, default=None)
    return Details(
        **msgspec.structs.asdict(Summary.of(state)),
        started_at=data.started_at,
        input=data.input,
        context=data.context,
        output=state.get(Any, RESULT, default=None),
        error=None if error is None else error_of(restored(error)).to_json(),
        stands=stands,
        next_at=min((each.until for each in stands if each.until), default=None),
        transitions=(await moments_of(engine, state.id, 0, MOST)).moments,
    )


def error_of(error: BaseException) -> TaskError:
    """Return the error of a task that is behind an error of an instance."""
    while not isinstance(error, TaskError) and error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, TaskError) else TaskError.of("runtime", str(error))
