"""Those who use simulated states from outside: they send messages, update, and wait."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from flowstate.errors import FlowstateError
from flowstate.mailboxes.mailbox import waiting_of
from flowstate.state import State, Status
from flowstate.testing.simulation.messages import Letter, draw_letters, send
from flowstate.testing.simulation.updates import TALLY, Increment, increment

if TYPE_CHECKING:
    from flowstate.testing.simulation.process import SimulatedProcess
    from flowstate.testing.simulation.world import World

__all__ = ["CALM_FROM", "Clients", "RULES", "Wait", "tally_of"]

CALM_FROM = 6.0  # When all faults are over.
BURSTS = (0, 1, 1, 2)  # Of updates of the tally.
DISTURBANCES = (0, 1, 2, 4)  # Updates of states that go through flows.
CUTS = ("cut", "lossy")  # Faults.
JUST_BEFORE = (0.0, 0.1)  # Seconds.
AT_ONCE = (0, 1, 1, 2)  # Updates of one process in a burst.
ASYNC = 0.25  # A part of the updates.
CALLS = 5  # Of one message.
AGAIN_AFTER = 1.0  # Seconds, as is the next.
ANSWERS_EVERY = 1.5
LAST = "finish"
WHILE_IT_ENDS = (0.0, 0.04)  # Seconds.
WAITED_FOR = 0.3  # A part of the states.
BY_STATUS = 0.5  # A part of the waits.
TIMED = 0.5  # A part of those who wait.
LATE = 3.0  # Seconds within which a wait ends after all faults, once its state is as wanted.


class Wait(Struct, eq=False):
    """A client that waits until a state has ended.

    Attributes:
        id: of the state.
        process: in which it waits.
        began: when.
        timeout: seconds.
        found: the revision that it was given.
        ended: when; ``None`` while it waits.
        has_timed_out: whether that is why it ended.
    """

    id: str
    process: "SimulatedProcess"
    began: float
    timeout: float | None
    found: State | None = None
    ended: float | None = None
    has_timed_out: bool = False


class Clients:
    """The clients of one world.

    Args:
        world: which calls them.

    Attributes:
        letters: all messages.
        increments: all updates.
        waits: all waits.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rng = world.rng
        self.letters: list[Letter] = draw_letters(world.rng, world.plans)
        self.increments: list[Increment] = []
        self.waits: list[Wait] = []
        self._waiting: dict[str, State] = {}  # At the last look.

    def begin(self) -> None:
        """Let everything come at its time."""
        rng, after = self._rng, self._world.after
        for letter in self.letters:
            after(letter.at, partial(self._send, letter, CALLS))
        for _ in range(rng.choice(BURSTS)):
            after(rng.uniform(0.2, CALM_FROM), self._burst)
        for _ in range(rng.choice(DISTURBANCES)):
            after(rng.uniform(0.2, CALM_FROM), self._disturb)
        for fault in self._world.faults:  # Where replies get lost.
            if fault.kind in CUTS:
                after(fault.at - rng.uniform(*JUST_BEFORE), self._burst)
        for plan in self._world.plans:
            # A state that is forgotten may be gone before the wait begins.
            if plan.steps[-1] == LAST and rng.random() < WAITED_FOR:
                after(max(0.2, plan.at + rng.uniform(-0.5, 2.0)), partial(self._wait, plan.id))
        after(ANSWERS_EVERY, self._answer)

    # Messages

    def _send(self, letter: Letter, calls: int) -> None:
        """Send a message again and again, until that is acknowledged."""
        world, rng = self._world, self._rng
        if world.is_over or letter.acknowledged_at is not None or not calls:
            return
        if usable := world.usable():
            if letter.key is None and calls < CALLS:  # Sent again, it would come twice.
                letter = replace(letter, text=f"{letter.text} again")
                self.letters.append(letter)
            for process in rng.choices(usable, k=letter.copies):
                process.serve(send(process.engine, letter, world.loop.time), letter.text)
        world.after(AGAIN_AFTER, partial(self._send, letter, calls - 1))

    def _answer(self) -> None:
        """Send a message to what waits since the last look: others may have come to nothing."""
        world = self._world
        if world.is_over:
            return
        before, self._waiting = self._waiting, self._who_waits()
        for id, state in self._waiting.items():
            waiting = waiting_of(state)
            if waiting is not None and before.get(id) == state:
                text = f"{id}/answer {len(self.letters)}"
                letter = Letter(text, id, world.loop.time(), self._rng.choice(waiting.names))
                self.letters.append(letter)
                self._send(letter, CALLS)
        world.after(ANSWERS_EVERY, self._answer)

    def _who_waits(self) -> dict[str, State]:
        latest = self._world.store.latest
        states = [latest[plan.id] for plan in self._world.plans if plan.id in latest]
        return {state.id: state for state in states if waiting_of(state) is not None}

    # Updates

    def _burst(self) -> None:
        """Let several processes change one state at the same time."""
        world, rng = self._world, self._rng
        for process in [] if world.is_over else world.usable():
            for _ in range(rng.choice(AT_ONCE)):
                self._update(process, TALLY)

    def _disturb(self) -> None:
        """Update a state that goes through flows."""
        world, rng = self._world, self._rng
        if not world.is_over and (usable := world.usable()):
            self._update(rng.choice(usable), rng.choice(world.plans).id)

    def _update(self, process: "SimulatedProcess", id: str) -> None:
        each = Increment(f"u{len(self.increments)}", id, self._rng.random() < ASYNC)
        self.increments.append(each)
        process.serve(increment(process.engine, each), each.name)

    # Waits

    def see(self, flow: str, id: str) -> None:
        """See that a flow begins: a wait that begins while its state ends must not miss that."""
        if flow == LAST:
            self._world.after(self._rng.uniform(*WHILE_IT_ENDS), partial(self._wait, id))

    def _wait(self, id: str) -> None:
        world, rng = self._world, self._rng
        usable = [] if world.is_over else world.usable()
        if not usable:
            return
        process = rng.choice(usable)
        timeout = rng.uniform(0.5, 6.0) if rng.random() < TIMED else None
        wait = Wait(id, process, world.loop.time(), timeout)
        self.waits.append(wait)
        process.serve(self._waited(wait), f"wait for {id}")

    async def _waited(self, wait: Wait) -> None:
        engine, id, timeout = wait.process.engine, wait.id, wait.timeout
        with contextlib.suppress(FlowstateError):
            try:
                if self._rng.random() < BY_STATUS:
                    found = await engine.wait_for(id, status=Status.ENDED, timeout=timeout)
                else:
                    found = await engine.wait_for(id, until=_has_ended, timeout=timeout)
                wait.found = found
            except TimeoutError:
                wait.has_timed_out = True
            finally:
                wait.ended = self._world.loop.time()

    def outstanding(self) -> Iterator[str]:
        """Tell which waits go on although what they wait for is there."""
        latest = self._world.store.latest
        for wait in self.waits:
            state = latest.get(wait.id)
            has_ended = state is not None and state.status is Status.ENDED
            if wait.ended is None and has_ended and wait.process.is_alive:
                yield f"{wait.process} still waits for {wait.id}"


def _has_ended(state: State) -> bool:
    return state.status is Status.ENDED


def _waits_end_in_time(world: "World") -> Iterator[str]:
    """A wait ends with a revision that is as wanted, and not without one when it is there."""
    log, times = world.store.log, world.store.times
    for wait in world.clients.waits:
        found = wait.found
        if found is not None and (found.status is not Status.ENDED or found != log[found.rev - 1]):
            yield f"the wait for {wait.id} ended with {found!r}"
        latest = world.store.latest.get(wait.id)
        if not wait.has_timed_out or latest is None or wait.ended is None:
            continue
        # What has ended ended once: none of these is forgotten.
        due = max(times[latest.rev - 1], wait.began, CALM_FROM) + LATE
        if latest.status is Status.ENDED and wait.ended > due:
            yield f"the wait for {wait.id} timed out at {wait.ended:.3f}, and it was {latest!r}"


RULES = (_waits_end_in_time,)


def tally_of(world: "World") -> Counter[str]:
    """Return how often what was seen of waits."""
    waits = world.clients.waits
    return Counter(
        {
            "waits that found a state": sum(wait.found is not None for wait in waits),
            "waits that timed out": sum(wait.has_timed_out for wait in waits),
        }
    )
