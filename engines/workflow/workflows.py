"""The client of workflows: starts instances, talks to them, and repairs them."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from flowstate import InvalidInputError, State, StateContext, Status
from flowstate.engines.kernel.code import Code, MisfitError
from flowstate.engines.kernel.instance import (
    DATA,
    OUTCOME,
    PARKED,
    STOP,
    THREADS,
    VERSION,
    WORKFLOW,
)
from flowstate.engines.kernel.threads import Threads
from flowstate.engines.workflow.checking import Found, Report, version_of
from flowstate.engines.workflow.explaining import Explanation, Moment, explain, moments
from flowstate.engines.workflow.locks import register_locks
from flowstate.engines.workflow.operating import Operators, workflow_of
from flowstate.engines.workflow.operators import move
from flowstate.ground.frozen import EMPTY

if TYPE_CHECKING:
    from flowstate.engines.workflow.schedules import Overlap, Scheduled, Schedules

__all__ = ["Kind", "Workflows"]

LIVE = (Status.ACTIVE, Status.PAUSED)

Kind = Literal["live", "parked", "done", "failed", "cancelled"]
"""Which instances: those that have not ended, those of them that do not fit their code, or those
that have ended in one of three ways."""


class Workflows(Operators):
    """The instances of some workflows, for the code that uses them and for operators."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        register_locks(self.engine.flows)
        if find_spec("cronsim"):  # Otherwise others run the schedules.
            from flowstate.engines.workflow.schedules import register_schedules  # noqa: PLC0415

            register_schedules(self.engine.flows, self.codes)
        return self

    @cached_property
    def _schedules(self) -> "Schedules":
        from flowstate.engines.workflow.schedules import Schedules  # noqa: PLC0415 - an extra

        return Schedules(self.engine, self.codes)

    async def query(self, id: str, ask: Callable[[Any], Any] | None = None) -> Any:
        """Read the data of an instance.

        Args:
            id: of the instance, which may have ended.
            ask: is given the data, and returns the answer; ``None``: the data is the answer.

        Raises:
            StateNotFoundError: there is no such instance.
            MisfitError: the workflow is not among those given here.
            ValueDecodeError: the data is not of its type any more.
        """
        state = await self.engine.get_state(id)
        workflow_of(state)
        data = state.get(self.codes.of(state).data, DATA)
        return data if ask is None else ask(data)

    async def progress(self, id: str) -> dict[str, Any]:
        """Return what the steps of an instance have reported, by the names of their threads.

        See :func:`current_step`; what a step reports is some seconds old.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        threads = (await self.engine.get_state(id)).get(Threads, THREADS, default={})
        found = {name: msgspec.json.decode(each.progress) for name, each in threads.items()}
        return {name: value for name, value in found.items() if value is not None}

    # --- What there is. ---

    async def explain(self, id: str) -> Explanation:
        """Explain an instance; the cost follows the number of its revisions.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        return await explain(self.engine, self.codes, id)

    def history(self, id: str) -> AsyncIterator[Moment]:
        """Iterate over the revisions of an instance that are stored, the oldest first."""
        return moments(self.engine, id)

    async def versions(self, code: Code) -> dict[int, int]:
        """Return how many live instances of a workflow go on with each version; reads them all."""
        counts = Counter({each.version: 0 for each in self.codes.versions(code.name)})
        async for state in self.instances(code, kind="live"):
            counts[version_of(state)] += 1
        return dict(counts)

    async def migrate(
        self,
        to: Code,
        *,
        id: str = "",
        stop: str = "",
        labels: Mapping[str, str] = EMPTY,
        plan: bool = False,
        by: str = "",
        why: str = "",
    ) -> Report:
        """Let live instances of other versions go on with this one, if they fit it.

        Each is a commit of its own; what does not fit stays as it is. A step that runs meanwhile
        runs again, with its key.

        Args:
            to: the version, among those given here.
            id: of one instance; otherwise all.
            stop: only those whose main thread stands there.
            labels: only those with these labels.
            plan: change nothing, only tell.
            by: who does it.
            why: for people.

        Returns:
            How many there were, and which of them do not fit.

        Raises:
            StateNotFoundError: there is no instance of that id.
            InvalidInputError: the version is not here, or the id is of another workflow.
            RevisionMismatchError: one moves too fast; do it again.
        """
        if to not in self.codes.versions(to.name):
            raise InvalidInputError("to", f"is not among the workflows here: {to!r}")
        if id and workflow_of(await self.engine.get_state(id)) != to.name:
            raise InvalidInputError("id", f"{id!r} is no instance of {to.name!r}")
        states = self.instances(to, stop=stop, kind="live", labels=labels)
        if id:
            states = self.engine.states(id=id, latest_only=True)
        found, live = Found(), 0
        async for state in states:
            if version_of(state) == to.version or OUTCOME in state.labels:
                continue
            live += 1
            try:
                await self._move(state, to, plan=plan, by=by, why=why)
            except MisfitError as error:
                found.add(state.id, to.name, "misfit", str(error), state.labels.get(STOP, ""))
        return Report(found.stranded(), live)

    async def _move(self, state: State, to: Code, *, plan: bool, by: str, why: str) -> None:
        if plan:
            move(StateContext(state), self.codes, to)
        else:
            with contextlib.suppress(InvalidInputError):  # It has ended meanwhile.
                await self._repair(
                    state.id, "migrate", lambda ctx: move(ctx, self.codes, to), by, why
                )

    async def instances(
        self,
        code: Code | None = None,
        *,
        version: int | None = None,
        stop: str = "",
        kind: Kind | None = None,
        labels: Mapping[str, str] = EMPTY,
    ) -> AsyncIterator[State]:
        """Iterate over the latest revisions of instances.

        Args:
            code: of this workflow; ``None``: of all that were given here.
            version: only those that go on with this version.
            stop: only those whose main thread stands there.
            kind: only these; ``None``: all.
            labels: only those with these labels.
        """
        if version:
            labels = {**labels, VERSION: str(version)}
        found = self._labels(code, stop, kind, labels)
        statuses = LIVE if kind in ("live", "parked") else (None,)
        for status in statuses:
            async for state in self.engine.states(labels=found, latest_only=True, status=status):
                if version is None or version == version_of(state):
                    yield state

    async def count(
        self,
        code: Code | None = None,
        *,
        version: int | None = None,
        stop: str = "",
        kind: Kind | None = None,
        labels: Mapping[str, str] = EMPTY,
    ) -> int:
        """Return how many instances :meth:`instances` would give; of version 0 it reads them."""
        if version == 0:
            states = self.instances(code, version=0, stop=stop, kind=kind, labels=labels)
            return len([None async for _ in states])
        if version:
            labels = {**labels, VERSION: str(version)}
        found = self._labels(code, stop, kind, labels)
        statuses = LIVE if kind in ("live", "parked") else (None,)
        return sum([await self.engine.count(labels=found, status=each) for each in statuses])

    async def standing(self, code: Code) -> dict[str, int]:
        """Return at how many live instances the main thread stands, by stop.

        Of a workflow that has several versions here, those of this version count.
        """
        version = code.version if len(self.codes.versions(code.name)) > 1 else None
        counts = {
            stop: await self.count(code, version=version, stop=stop, kind="live")
            for stop in code.stops
        }
        return {stop: count for stop, count in counts.items() if count}

    # --- Schedules. ---

    async def schedule(
        self,
        name: str,
        code: Code,
        cron: str,
        data: Any,
        args: Mapping[str, Any] = EMPTY,
        *,
        zone: str = "UTC",
        overlap: "Overlap" = "skip",
    ) -> bool:
        """Start an instance at each time of a cron expression, from now on.

        It needs ``cronsim``, which the extra ``workflow`` installs. The id of an instance is
        ``<name>@<time in UTC>``, and an argument that is called ``slot`` gets that time. Of the
        times that pass while nothing runs, the first is made up for, and the others are left out.
        A schedule of that name is changed; what it has started goes on.

        Args:
            name: of the schedule.
            code: the workflow.
            cron: five fields, or six with seconds first.
            data: of each instance.
            args: further arguments of each instance.
            zone: the time zone in which the expression is read, such as ``Europe/Berlin``. A time
                that the clock leaves out comes right after the gap; one that it has twice comes
                once, unless the expression has a time in each hour.
            overlap: what becomes of an occurrence while the one before it runs: ``skip`` leaves it
                out, ``queue`` starts it after that (of up to 1,000), ``parallel`` at once.

        Returns:
            Whether this changed anything.

        Raises:
            InvalidInputError: the expression, the zone, the data or an argument is refused.
            UnknownFlowError: the workflow is not among those given here.
            ModuleNotFoundError: ``cronsim`` is not installed.
        """
        return await self._schedules.set(name, code, cron, data, args, zone=zone, overlap=overlap)

    async def unschedule(self, name: str) -> None:
        """End a schedule; what it has started goes on.

        Raises:
            StateNotFoundError: there is no such schedule.
        """
        await self._schedules.end(name)

    def schedules(self) -> "AsyncIterator[Scheduled]":
        """Iterate over the schedules of the workflows that were given here."""
        return self._schedules.all()

    def _labels(
        self, code: Code | None, stop: str, kind: Kind | None, labels: Mapping[str, str]
    ) -> list[Mapping[str, str]]:
        wanted = dict(labels)
        if kind == "parked":
            wanted[PARKED] = "misfit"
        elif kind not in (None, "live"):
            wanted[OUTCOME] = str(kind)
        codes = self.codes if code is None else [code]
        return [
            {**wanted, WORKFLOW: each.name, **at}
            for each in codes
            if each.data is not None
            for at in _stands_at(each, stop)
        ]


def _stands_at(code: Code, stop: str) -> list[dict[str, str]]:
    """Return labels of instances that stand at a stop, by its name and by older ones."""
    if not stop:
        return [{}]
    renamed: Mapping[str, str] = getattr(code, "renamed", EMPTY)
    return [{STOP: each} for each in (stop, *(old for old in renamed if renamed[old] == stop))]
