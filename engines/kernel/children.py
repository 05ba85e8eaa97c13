"""Children of an instance: started in stages, cancelled, and asked for their results."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import attrs
import msgspec
from msgspec import Raw

from flowstate import (
    Commit,
    Delay,
    Engine,
    EngineOverloadedError,
    EngineStoppedError,
    InvalidCommandError,
    InvalidInputError,
    Put,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
    UnknownFlowError,
)
from flowstate.engines.kernel.control import CONTROL
from flowstate.engines.kernel.errors import (
    ChildFailed,
    InstanceFailedError,
    StoredError,
    restored,
    stored,
)
from flowstate.engines.kernel.instance import (
    ERROR,
    ORIGIN,
    OUTCOME,
    PARENT,
    RESULT,
    Codes,
    Instance,
)
from flowstate.engines.kernel.operations import Each
from flowstate.engines.kernel.progress import Progress
from flowstate.engines.kernel.starting import Origin, flow_of, new_instance, revived
from flowstate.engines.kernel.telling import latest
from flowstate.engines.kernel.threads import MAIN, Children, Ended, Thread

__all__ = ["Family"]

STAGE = 100  # Children that start with one commit.
AT_ONCE = 32  # Messages on their way.


@attrs.define(eq=False)
class Family:
    """The children of one instance, in one turn."""

    ctx: StateContext
    engine: Engine
    codes: Codes
    instance: Instance
    progress: Progress

    async def tend(self) -> bool:
        """Do what is to be done next for children; return whether there was anything."""
        for name, thread in list(self.instance.threads.items()):
            if thread.does == "each" and await self._tend(name, thread):
                return True
        return False

    async def _tend(self, name: str, thread: Thread) -> bool:
        each, children = self.progress.ask(name), thread.children
        assert isinstance(each, Each)  # noqa: S101 - see Progress.resume
        assert children is not None  # noqa: S101 - who stands at such a stop has them
        prefix = self._prefix(name, thread, each)
        if name in self.progress.to_look:
            self.progress.to_look.remove(name)
            await self._look(prefix, children)
        if children.error is not None and each.strict:
            children.stopping = True
        if thread.owed and each.abandon:
            self.progress.raise_owed(name)
        elif children.are_over:
            ended = await self._ended(prefix, thread, children)
            if ended is None:
                self.progress.raise_owed(name)
            else:
                self.progress.finish(name, ended)
        elif children.stopping and not children.told:
            await self._cancel(prefix)
            children.told = self.instance.is_changed = True
        elif self._room(each, children):
            await self._start(name, thread, each, children, prefix)
        else:
            return False
        return True

    def _prefix(self, name: str, thread: Thread, each: Each) -> str:
        """Return what the ids of the children begin with; the number of the item follows."""
        own = self.instance.id if name == MAIN else f"{self.instance.id}.{name}"
        return f"{own}.{each.name}.{thread.passed}."

    def _room(self, each: Each, children: Children) -> int:
        """Return how many children may start now."""
        if children.stopping or self.instance.notes.paused:
            return 0
        free = max(1, each.limit) - (children.started - children.done)
        return max(0, min(free, children.total - children.started, STAGE))

    async def _start(
        self, name: str, thread: Thread, each: Each, children: Children, prefix: str
    ) -> None:
        """Start some children with the commit that counts them."""
        origin = Origin(self.instance.id, name, thread.passed, each.abandon)
        first, count = children.started, self._room(each, children)
        try:
            made = [
                new_instance(
                    each.workflow, f"{prefix}{index}", each.items[index], {}, origin=origin
                )
                for index in range(first, first + count)
            ]
            self.engine.flows.check(flow_of(each.workflow.name))
        except (InvalidInputError, UnknownFlowError) as error:
            children.error, children.stopping = stored(error), True
            self.instance.is_changed = True
            return
        children.since = children.since or self.ctx.committed.rev
        children.started += count
        self.instance.save(self.ctx)
        to = flow_of(each.workflow.name)
        await self._commit(children, made, to)
        for child in made:
            await self._execute(child, to)

    async def _commit(self, children: Children, made: list[StateContext], to: str) -> None:
        """Commit the parent with its children; those that are there already are wanted again."""
        while True:
            try:
                steps = [Transit(child, to) for child in made]
                await self.engine.do(Commit(Put(self.ctx), *steps))
            except RevisionMismatchError as error:
                if self.instance.id in error.ids:
                    raise
                for child in [each for each in made if each.current.id in error.ids]:
                    made.remove(child)
                    made += await self._adopted(children, child)
                self.instance.save(self.ctx)
            else:
                return

    async def _adopted(self, children: Children, fresh: StateContext) -> list[StateContext]:
        """Count a child that is done; return it if it has ended otherwise, so that it goes on."""
        state = await self.engine.get_state(fresh.current.id)
        if state.values.get(ORIGIN) != fresh.current.values[ORIGIN]:
            raise InvalidInputError("id", f"{state.id!r} is there already, and is no child of it")
        if state.labels.get(OUTCOME) == "done":
            children.count(state.id, None)
        elif OUTCOME in state.labels or state.status is Status.ENDED:
            return [revived(state, fresh, self.codes)]
        return []

    async def _execute(self, child: StateContext, to: str) -> None:
        """Execute a child here, or let another engine do it."""
        try:
            await self.engine.begin(child)
        except (EngineOverloadedError, EngineStoppedError, UnknownFlowError):
            with contextlib.suppress(RevisionMismatchError):  # It has moved on.
                await self.engine.do(Delay(child, to, timedelta(0)))

    async def _cancel(self, prefix: str) -> None:
        """Tell children to end, but for those that have come to an end already."""
        room = asyncio.Semaphore(AT_ONCE)

        async def cancel(id: str) -> None:
            async with room:
                with contextlib.suppress(InvalidCommandError, StateNotFoundError):  # It has ended.
                    await self.engine.signal(id, CONTROL, "cancel")

        children = [state async for state in self._children(prefix)]
        live = [state.id for state in children if OUTCOME not in state.labels]
        await asyncio.gather(*map(cancel, live))

    async def _look(self, prefix: str, children: Children) -> None:
        """Count children that have ended and told nothing: by force, after crashes, forgotten."""
        live = {
            each.id
            async for each in self._children(prefix, since=children.since)
            if each.status is not Status.ENDED
        }
        for id in [f"{prefix}{index}" for index in range(children.started)]:
            if id in live or children.has_ended(id):
                continue
            state = await latest(self.engine, id)
            if not state.rev or state.status is Status.ENDED:
                children.count(id, _error_of(state))

    async def _children(self, prefix: str, since: int = 0) -> AsyncIterator[State]:
        labels = {PARENT: self.instance.id}
        states = self.engine.states(labels=labels, latest_only=True, since_rev=since)
        async for state in states:
            if state.id.startswith(prefix):
                yield state

    async def _ended(self, prefix: str, thread: Thread, children: Children) -> Ended | None:
        """Return what has come of the children; ``None``: what the thread is owed."""
        if thread.owed:
            return None
        if children.error is None:
            return await self._results(prefix, children)
        if not children.failed:
            return Ended(error=children.error)
        error = ChildFailed(children.failed, children.error.text)
        error.__cause__ = restored(children.error)
        return Ended(error=stored(error))

    async def _results(self, prefix: str, children: Children) -> Ended:
        found: dict[str, Raw] = {}
        async for state in self._children(prefix, since=children.since):
            found |= _result_of(state)
        ids = [f"{prefix}{index}" for index in range(children.total)]
        for id in ids:
            if id not in found:  # It had ended before the others were started again.
                found |= _result_of(await latest(self.engine, id))
            if id not in found:
                return Ended(error=stored(ChildFailed(id, "its result is not there any more")))
        return Ended(Raw(msgspec.json.encode([found[id] for id in ids])))


def _result_of(state: State) -> dict[str, Raw]:
    return {state.id: state.values[RESULT]} if RESULT in state.values else {}


def _error_of(state: State) -> StoredError | None:
    """Return why a child that has ended has no result."""
    if state.labels.get(OUTCOME) == "done":
        return None
    text = "it was ended by force, or crashed too often" if state.rev else "it was forgotten"
    by_force = InstanceFailedError(state.id, text)
    return state.get(StoredError, ERROR, default=None) or stored(by_force)
