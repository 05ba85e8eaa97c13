"""A store that several simulated processes reach over a network that delays and loses messages.

The store itself is the memory driver. In front of it, each process has a driver of its own: see
:mod:`flowstate.testing.simulation.driver`.
"""

import math
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import DamagedRevision, DelayedState, DueQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.errors import CommitUnknownError, DamagedRevisionError, FlowstateError
from flowstate.state import State, Status, Transition
from flowstate.testing.simulation.loop import SimulationLoop
from flowstate.testing.simulation.recording import Recording

__all__ = ["ALL_DELAYS", "Link", "SimulatedStore", "at_once"]

T = TypeVar("T")

ALL_DELAYS = DueQuery("delay", everything=True, limit=1_000)
SLOW = 0.01  # How often a message takes long.
PAST = "past"
DAMAGE = "damaged by the nemesis"


class Link:
    """The way between one process and the store.

    Attributes:
        cut: what happens to messages while the way is cut: ``"refused"`` or ``"lost"``;
            ``None`` while it is not.
        loss: which part of the messages gets lost.
    """

    def __init__(self) -> None:
        self.cut: str | None = None
        self.loss = 0.0


class Listener(Protocol):
    """The driver of a process, as the store sees it."""

    name: str

    def hint(self, *, own: bool, has_delays: bool) -> None:
        """Let the process know that something was written."""


class StoreClock(Clock, Protocol):
    """A clock that can be wrong."""

    error: timedelta


class SimulatedStore:
    """The memory driver, and a record of all it was asked to write.

    Attributes:
        log: every revision, whether it was compacted or not.
        latest: the last of them, by id.
        there: the ids of the states that have a latest revision, and were not forgotten.
        lives: how often each id has begun.
        authors: who sent each of them.
        times: when each of them was committed, in seconds of the loop.
        applied: by token, the revisions it was given when it was judged first.
        refused: by token, why it was not applied.
        sent: by token, when its driver was asked for it first.
        verdicts: by token, what drivers told engines: a verdict, or ``None`` for nothing yet.
        damaged: revisions that cannot be read any more.
        counts: what happened, by name.
        trace: what happened, with the time.
        recording: of what drivers asked and were told, for the checker of histories.
        clock: of the store.
        set_back: by how much it was ahead at first.
        jumped_at: when it jumped ahead last, in seconds of the loop.
        on_commit: called after every batch.
    """

    def __init__(self, loop: SimulationLoop, rng: Random, clock: StoreClock) -> None:
        self.loop = loop
        self.rng = rng
        self.clock = clock
        self.set_back = timedelta(0)
        self.jumped_at = -math.inf
        self.memory = MemoryDriver(clock)
        self.log: list[State] = []
        self.latest: dict[str, State] = {}
        self.there: set[str] = set()
        self.lives: Counter[str] = Counter()
        self.authors: list[str] = []
        self.times: list[float] = []
        self.applied: dict[str, tuple[State, ...]] = {}
        self.refused: dict[str, FlowstateError] = {}
        self.sent: dict[str, float] = {}
        self.verdicts: dict[str, Verdict | None] = {}
        self.damaged: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[float, str]] = []
        self.recording = Recording(loop)
        self.drivers: list[Listener] = []
        self.on_commit: Callable[[], None] = lambda: None
        at_once(self.memory.__aenter__())

    def note(self, what: str) -> None:
        """Put something into the trace."""
        self.trace.append((self.loop.time(), what))

    def was_ahead(self, by: timedelta) -> None:
        """Commit something while the clock is ahead, and set it right again."""
        self.counts["clocks that were ahead"] += 1
        self.set_back = by
        self.clock.error += by
        state = State(PAST, transition=Transition("", cause="end"), status=Status.ENDED)
        writes = Writes(PAST, (state,))
        ops = self.recording.invoked([writes])
        verdicts = self.commit(PAST, [writes])
        self.recording.judged(ops, verdicts)
        self.verdicts[PAST] = verdicts[0]
        self.clock.error -= by

    def commit(self, author: str, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Judge a batch."""
        verdicts = [self._judge(author, writes) for writes in batch]
        has_delays = any(writes.delays or writes.timers for writes in batch)
        for driver in self.drivers:
            driver.hint(own=driver.name == author, has_delays=has_delays)
        self.on_commit()
        return verdicts

    def _judge(self, author: str, writes: Writes) -> Verdict:
        token = writes.token
        if token in self.applied:
            self.counts["resolved by token"] += 1
            self.note(f"store knows {token}")
            return self._known(writes, self.applied[token])
        if token in self.refused:  # As drivers see to: no lost attempt goes on while it is retried.
            return self.refused[token]
        verdict = at_once(self.memory.commit([writes]))[0]
        if isinstance(verdict, tuple):
            self._keep(author, token, verdict)
        else:
            self.refused[token] = verdict
            self.counts["mismatches"] += 1
            self.note(f"store refuses {token}: {verdict}")
        return verdict

    def _known(self, writes: Writes, states: tuple[State, ...]) -> Verdict:
        """Return what a commit got that is sent again: its revisions say so while they exist."""
        is_there = [at_once(self.memory.get_state(state.id, state.rev)) for state in states]
        if states and not any(is_there):
            return CommitUnknownError(writes.token)
        return states

    def _keep(self, author: str, token: str, states: tuple[State, ...]) -> None:
        self.applied[token] = states
        self.log += states
        for state in states:
            self.latest[state.id] = state
            self.lives[state.id] += state.id not in self.there
            self.there.add(state.id)
            if state.transition.cause == "forget":
                self.there.remove(state.id)
        self.authors += [author] * len(states)
        self.times += [self.loop.time()] * len(states)
        revs = ", ".join(f"{state.id}@{state.rev}" for state in states)
        self.note(f"store commits {token}: {revs}")

    # Damage

    def damage(self) -> None:
        """Make a revision unreadable that is not the latest of its state."""
        old = [state.rev for state in self.log if self.latest[state.id].rev != state.rev]
        if old:
            self.damaged.add(self.rng.choice(old))

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Return a revision, unless it is damaged."""
        state = await self.memory.get_state(id, rev)
        if state is not None and state.rev in self.damaged:
            raise DamagedRevisionError(state.rev, id, DAMAGE)
        return state

    def without_damage(self, page: States) -> States:
        """Return a page with what is damaged only named."""
        damaged = [
            DamagedRevision(state.rev, state.id, DAMAGE)
            for state in page.states
            if state.rev in self.damaged
        ]
        if not damaged:
            return page
        self.counts["damaged revisions on pages"] += len(damaged)
        states = [state for state in page.states if state.rev not in self.damaged]
        return replace(page, states=states, damaged=damaged)

    # Looking at what happened

    def delays(self) -> Sequence[DelayedState]:
        """Return all delays and timers that are left."""
        return at_once(self.memory.get_due(ALL_DELAYS)).due

    def is_unknown(self, state: State) -> bool:
        """Return whether the committer of a revision was told that its outcome is unknown."""
        return isinstance(self.verdicts[self._token_of(state)], CommitUnknownError)

    def sent_at(self, state: State) -> float:
        """Return when the commit of a revision was sent first."""
        return self.sent[self._token_of(state)]

    def _token_of(self, state: State) -> str:
        return next(token for token, states in self.applied.items() if state in states)

    def age(self, state: State) -> float:
        """Return the seconds since a revision was committed."""
        return self.loop.time() - self.times[state.rev - 1]

    def latency(self) -> float:
        """Draw how long a message takes."""
        part = self.rng.random()
        if part < SLOW:
            return self.rng.random() * 2.0
        return 0.001 + 0.03 * part * part


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
