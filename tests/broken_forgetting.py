"""Memory drivers that each break one promise about forgetting, ids, counts, or what is idle."""

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import DelayedState, DuePage, DueQuery, StateQuery, States, Verdict, Writes
from flowstate.errors import RevisionMismatchError
from flowstate.ground.frozen import EMPTY
from flowstate.state import State, Status
from tests.broken_base import Base

__all__ = [
    "AnyId",
    "CountsAlternatives",
    "CountsForgotten",
    "CountsTheLog",
    "EndedIsIdle",
    "ForgetsNothing",
    "ForgottenStalls",
    "HidesForgetting",
    "KeepsForgotten",
    "OneLife",
    "OneLifeOnPages",
    "OnlyPausedIsIdle",
    "ShortIdlePages",
]


class ForgetsNothing(Base):
    """Takes the last revision of a state for one like any other."""

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(replace(writes, forgets=()))


class HidesForgetting(Base):
    """Shows the last revision of a forgotten state to none that reads the log."""

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        shown = [state for state in found.states if state.transition.cause != "forget"]
        return replace(found, states=shown)


class KeepsForgotten(Base):
    """Leaves the last revision of a forgotten state in the log, as if it were the latest."""

    def _forget(self, state: State) -> None:
        super()._forget(state)
        self._forgotten.pop()


class ForgottenStalls(Base):
    """Goes on to say that a forgotten state stands still."""

    def _forget(self, state: State) -> None:
        del self._latest[state.id]
        self._forgotten.append(state.rev)


class OneLife(Base):
    """Lets no id begin again."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.gone: set[str] = set()

    async def commit_one(self, writes: Writes) -> Verdict:
        again = [put.id for put in writes.puts if put.id in self.gone]
        if again:
            return RevisionMismatchError(again)
        verdict = await self.apply(writes)
        if isinstance(verdict, tuple):
            self.gone.update(verdict[place].id for place in writes.forgets)
        return verdict


class OneLifeOnPages(Base):
    """Shows of an id only what came after it was forgotten last."""

    async def get_states(self, query: StateQuery) -> States:
        found = await super().get_states(query)
        ends = [s.rev for s in self._states if s.id == query.id and s.transition.cause == "forget"]
        after = max(ends, default=0)
        return replace(found, states=[state for state in found.states if state.rev > after])


class AnyId(Base):
    """Has no regard for the id that it is asked for."""

    async def get_states(self, query: StateQuery) -> States:
        return await super().get_states(replace(query, id=None))


class CountsForgotten(Base):
    """Counts what is forgotten."""

    async def count(self, query: StateQuery) -> int:
        left = {state.id for state in self._states} - self._latest.keys()
        return await super().count(query) + len(left)


class CountsAlternatives(Base):
    """Counts a state once for each alternative that it answers."""

    async def count(self, query: StateQuery) -> int:
        found = 0
        for labels in query.labels or (EMPTY,):
            found += await super().count(replace(query, labels=(labels,) if labels else ()))
        return found


class CountsTheLog(Base):
    """Counts revisions instead of states."""

    async def count(self, query: StateQuery) -> int:
        return len((await self.get_states(replace(query, limit=10_000))).states)


class EndedIsIdle(Base):
    """Takes all that never stalls for idle, also what has ended."""

    async def get_due(self, query: DueQuery) -> DuePage:
        page = await super().get_due(query)
        if query.kind != "idle":
            return page
        ended = StateQuery(latest_only=True, status=Status.ENDED, limit=10_000)
        found = (await self.get_states(ended)).states
        also = [DelayedState(s.id, s, s.transition.to, EMPTY, page.now, False) for s in found]
        return replace(page, due=[*page.due, *also])


class OnlyPausedIsIdle(Base):
    """Takes only what is paused for idle."""

    async def get_due(self, query: DueQuery) -> DuePage:
        page = await super().get_due(query)
        if query.kind != "idle":
            return page
        return replace(page, due=[e for e in page.due if e.state.status is Status.PAUSED])


class ShortIdlePages(Base):
    """Says that there is nothing more behind the first page of idle states."""

    async def get_due(self, query: DueQuery) -> DuePage:
        page = await super().get_due(query)
        return replace(page, more=False) if query.kind == "idle" else page
