"""Looks for what the threads of an instance wait for outside of it."""

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime

import attrs
import msgspec
from msgspec import Raw

from flowstate import (
    Check,
    Commit,
    Engine,
    Pause,
    Put,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import stored
from flowstate.engines.kernel.events import events, events_after
from flowstate.engines.kernel.instance import RESULT, Instance
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Event, Events, Outside, Result
from flowstate.engines.kernel.progress import Progress
from flowstate.engines.kernel.results import failure_of, is_over
from flowstate.engines.kernel.telling import latest, mark_of, without_mark
from flowstate.engines.kernel.threads import Ended, Thread

__all__ = ["Awaiting"]

RACES = 64
MOST_TOPICS = 32  # Of an instance.
MOST_SEEN = 1_000  # Events that an instance remembers to have been given.


@attrs.define(eq=False)
class Awaiting:
    """What is waited for outside of one instance, in one turn.

    Attributes:
        now: returns the time of the store, as far as it is known to have come.
    """

    ctx: StateContext
    engine: Engine
    instance: Instance
    progress: Progress
    now: Callable[[], datetime]

    async def tend(self) -> bool:
        """Look, if there is a reason to; return whether a thread goes on."""
        if not self.progress.is_looking or self.instance.notes.paused:
            return False
        self.progress.is_looking = False
        waits = [
            (name, self.instance.threads[name], wait)
            for name, wait in self.progress.waits()
            if any(isinstance(each, Outside) for each in wait.sources)
        ]
        await self._register([(thread, wait) for _, thread, wait in waits])
        return any([await self._look(*each) for each in waits])

    async def _register(self, waits: Sequence[tuple[Thread, Wait]]) -> None:
        """Commit the topics of waits, if they are not stored yet."""
        is_new, all_ = False, [_topics(wait) for _, wait in waits]
        if len({each for topics in all_ for each in topics}) > MOST_TOPICS:
            all_ = [_topics(wait, is_rough=True) for _, wait in waits]
        for (thread, wait), topics in zip(waits, all_, strict=True):
            is_new = is_new or thread.topics != topics or thread.since is None
            thread.scanned = thread.scanned if thread.topics == topics else 0
            thread.topics, thread.since = topics, thread.since or self.now() - wait.lookback
            notes = self.instance.notes
            if not notes.began and any(isinstance(each, Events) for each in wait.sources):
                notes.began, is_new = await self._began(), True
            if not thread.looks and any(isinstance(each, Result) for each in wait.sources):
                self.progress.look_later(thread)
        count = len({each for topics in all_ for each in topics})
        if count > MOST_TOPICS:
            raise MisfitError(f"it waits for {count} instances and events; {MOST_TOPICS} is most")
        if is_new:
            self.instance.save(self.ctx)
            await self.engine.do(Commit(Put(self.ctx)))

    async def _began(self) -> int:
        """Return the first revision of the instance, not of one that was forgotten."""
        began, is_first = 0, True
        async for state in self.engine.history(self.instance.id):
            began = state.rev if is_first else began
            is_first = state.transition.cause == "forget"
            if state.rev >= self.ctx.committed.rev:
                break
        return began

    async def _look(self, name: str, thread: Thread, wait: Wait) -> bool:
        if self.instance.threads.get(name) is not thread or thread.does != "wait":
            return False  # Another thread has ended it just now.
        rev = self.ctx.committed.rev
        for source in wait.sources:
            ended = None
            if isinstance(source, Result):
                ended = await self._result(source)
            elif isinstance(source, Event):
                ended = await self._event(source, thread, wait, f"{self._root(name)}/{wait.name}")
            elif isinstance(source, Events):
                ended = await self._events(source, thread.scanned)
            if ended is not None:
                self.progress.finish(name, ended)
                return True
        thread.scanned = rev
        return False

    async def _result(self, source: Result) -> Ended | None:
        """Return how an instance has ended; ``None``: it has a mark, and will tell.

        The mark has to be there from before the instance was seen alive until after that.
        """
        for _ in range(RACES):
            found = StateContext(await latest(self.engine, mark_of(source.about).current.id))
            state = await latest(self.engine, source.about)
            if is_over(state):
                await self._remove(found, state)
                failure = failure_of(state)
                given = Ended(error=stored(failure)) if failure else None
                return given or _given(source, state.values[RESULT])
            if not found.committed.rev:
                with contextlib.suppress(RevisionMismatchError):  # Another one was faster.
                    await self.engine.do(Commit(Pause(found)))
            elif await latest(self.engine, found.current.id) == found.committed:
                return None
        raise RevisionMismatchError([source.about])

    async def _remove(self, found: StateContext, over: State) -> None:
        """Remove the mark of an instance that has ended before it was made."""
        if found.committed.rev:
            with contextlib.suppress(RevisionMismatchError):  # Others do so, or it lives again.
                await self.engine.do(Commit(*without_mark(found), Check(StateContext(over))))

    async def _event(self, source: Event, thread: Thread, wait: Wait, place: str) -> Ended | None:
        """Return the oldest event that this place was not given yet."""
        assert thread.since is not None  # noqa: S101 - it is registered
        seen = self.instance.notes.seen
        found = [
            each
            async for each in events(self.engine, source, thread.since)
            if f"{place} {each[1]}" not in seen
        ]
        if not found:
            return None
        _, digest, at, event = min(found)
        self._forget_seen()
        seen[f"{place} {digest}"] = at, max(at + wait.lookback, self.now())
        return _given(source, event)

    async def _events(self, source: Events, scanned: int) -> Ended | None:
        after, without = source.about
        after = self.instance.notes.began if after is None else after
        since = max(after, scanned)
        found = await events_after(self.engine, source.topics, after, without, since)
        return _given(source, Raw(msgspec.json.encode(found))) if found else None

    def _forget_seen(self) -> None:
        """Forget events that no wait can find again, neither one to come nor one of now."""
        seen, now = self.instance.notes.seen, self.now()
        since = min(each.since or now for each in self.instance.threads.values())
        for key in [key for key, (at, until) in seen.items() if at < since and until < now]:
            del seen[key]
        for key in [*seen][: 1 - MOST_SEEN]:
            del seen[key]

    def _root(self, name: str) -> str:
        """Return the thread of which a thread is a branch."""
        while parent := self.instance.threads[name].parent:
            name = parent
        return name


def _topics(wait: Wait, *, is_rough: bool = False) -> tuple[str, ...]:
    found = [each for each in wait.sources if isinstance(each, Outside)]
    return tuple(topic for each in found for topic in (each.rough if is_rough else each.topics))


def _given(source: Outside, raw: Raw) -> Ended:
    return Ended(Raw(msgspec.json.encode((source.kind, raw))))
