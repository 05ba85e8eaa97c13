"""The part of the client that operators use: it repairs instances."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from flowstate import Commit, InvalidInputError, Put, RevisionMismatchError, State, StateContext
from flowstate.engines.kernel.instance import ORIGIN, OUTCOME, PARENT, THREADS, WORKFLOW
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.starting import Origin, flow_of
from flowstate.engines.kernel.threads import Threads
from flowstate.engines.workflow.operators import OPERATOR, Note, edit, forked, goto, retry
from flowstate.ground.frozen import EMPTY

__all__ = ["Operators", "workflow_of"]

RACES = 64  # That a change may lose.


class Operators(Kernel):
    """Repairs instances.

    What an operator does is an ordinary commit, with a note in the annotation ``operator``.
    """

    async def edit(
        self,
        id: str,
        change: Callable[[Any], Any] | None = None,
        *,
        names: Mapping[str, Any] = EMPTY,
        thread: str = "main",
        raw: bool = False,
        by: str = "",
        why: str = "",
    ) -> None:
        """Change the data of an instance, and names that are alive where a thread stands.

        A step that runs meanwhile runs again.

        Args:
            id: of the instance, which may have failed.
            change: is given the data, and changes it in place or returns another one. It may be
                called several times.
            names: values by name.
            thread: whose names they are.
            raw: let ``change`` have the data as plain JSON, since it is not of its type any more.
            by: who does it.
            why: for people.

        Raises:
            StateNotFoundError: there is no such instance.
            InvalidInputError: the data or a name is refused, or the instance is over.
            MisfitError: the instance does not fit the code.
            RevisionMismatchError: it moves too fast.
        """
        args = change, names, thread
        await self._repair(id, "edit", lambda ctx: edit(ctx, self.codes, *args, raw=raw), by, why)

    async def goto(
        self,
        id: str,
        stop: str,
        *,
        names: Mapping[str, Any] = EMPTY,
        place: Mapping[str, Any] = EMPTY,
        thread: str = "main",
        by: str = "",
        why: str = "",
    ) -> None:
        """Let a thread stand at another stop, where it starts over: with another key for effects.

        What it did is stopped, its branches are dropped, and its children are cancelled.

        Args:
            id: of the instance, which may have failed.
            stop: a name, in the code that the thread is in, or in what has called that.
            names: values that must be alive there and are not, or other ones.
            place: positions of loops around the stop, by level, such as ``{"for item": 0}``.
            thread: which one.
            by: who does it.
            why: for people.

        Raises:
            StateNotFoundError: there is no such instance.
            InvalidInputError: there is no such stop, it cannot be entered with what is known, or
                the instance is over.
            MisfitError: the instance does not fit the code.
            RevisionMismatchError: it moves too fast.
        """
        codes = self.codes
        go = partial(goto, codes=codes, stop=stop, names=names, place=place, thread=thread)
        before = await self._repair(id, "goto", go, by, why)
        await self._cancel_left(before, thread)

    async def retry(self, id: str, *, by: str = "", why: str = "") -> None:
        """Try again what has failed, with the same keys for effects.

        Of a live instance, steps that wait for their next attempt get it now. One that has failed
        goes on from the last stop that it stood at: that is done once more.

        Raises:
            StateNotFoundError: there is no such instance.
            InvalidInputError: nothing has failed, or it cannot be told what to try again.
            MisfitError: the instance does not fit the code.
            RevisionMismatchError: it moves too fast.
        """
        await self._repair(id, "retry", lambda ctx: retry(ctx, self.codes), by, why)

    async def fork(
        self, id: str, new_id: str, *, rev: int | None = None, by: str = "", why: str = ""
    ) -> bool:
        """Start a new instance that stands where another one stood.

        Its keys for effects are its own. It waits again, with whole timeouts, and starts its own
        children. It is not a child, whatever the other one is.

        Args:
            id: of the other instance.
            new_id: of the new one.
            rev: the revision of the other one, see :meth:`history`; ``None``: the latest.
            by: who does it.
            why: for people.

        Returns:
            Whether it was started; ``False`` if there is a state of that id.

        Raises:
            StateNotFoundError: there is no such revision.
            InvalidInputError: it stands nowhere there, since it has ended.
            MisfitError: it does not fit the code.
        """
        state = await self.engine.get_state(id, rev)
        ctx = forked(state, self.codes, new_id)
        _note(ctx, Note("fork", state.rev, by, why, id))
        try:
            await self.engine.start(ctx, flow_of(workflow_of(state)))
        except RevisionMismatchError:
            return False
        return True

    async def _repair(
        self, id: str, did: Any, change: Callable[[StateContext], None], by: str, why: str
    ) -> State:
        """Change an instance, let it go on, and return the revision that was changed."""
        for _ in range(RACES):
            state = await self.engine.get_state(id)
            ctx = StateContext(state)
            change(ctx)
            _note(ctx, Note(did, state.rev, by, why))
            try:
                if did == "edit" and OUTCOME in state.labels:
                    await self.engine.do(Commit(Put(ctx)))
                else:
                    await self.engine.start(ctx, flow_of(workflow_of(state)))
            except RevisionMismatchError:
                continue
            return state
        raise RevisionMismatchError([id])

    async def _cancel_left(self, before: State, thread: str) -> None:
        """Cancel the children that a thread has left, and those of its branches."""
        threads = before.get(Threads, THREADS)
        left = {thread}
        for name, held in threads.items():  # A branch comes after what waits for it.
            if held.parent in left:
                left.add(name)
        passed = {(name, threads[name].passed) for name in left if threads[name].children}
        if not passed:
            return
        async for child in self.engine.states(labels={PARENT: before.id}, latest_only=True):
            origin = child.get(Origin, ORIGIN)
            if (origin.thread, origin.passed) in passed and not origin.abandoned:
                await self.cancel(child.id)


def workflow_of(state: State) -> str:
    """Return the name of the workflow of an instance."""
    if WORKFLOW not in state.labels:
        raise InvalidInputError("id", f"{state.id!r} is no instance of a workflow")
    return state.labels[WORKFLOW]


def _note(ctx: StateContext, note: Note) -> None:
    ctx.set_annotation(OPERATOR, msgspec.json.encode(note).decode())
