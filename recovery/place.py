"""How far a consumer has come: its place in the log, and what it has passed over."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from flowstate.commands import Command, Commit, Pause
from flowstate.context import StateContext
from flowstate.driver import Driver, StateQuery, Transaction
from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.ground.limits import MAX_PAGE
from flowstate.log.log_tail import revisions
from flowstate.recovery.lease import Lease
from flowstate.state import State

__all__ = [
    "Cursor",
    "DeadLetter",
    "INTERNAL",
    "Place",
    "count_after",
    "place_id",
    "read_place",
]

INTERNAL = "flowstate."  # Begins the ids of states of the library's own.
PREFIX = "flowstate.consumer."
LABEL = "flowstate.consumer"
MOST_LETTERS = 100
MOST_ERROR = 300  # Characters: all letters are stored again with each place.
MOST_LOOSE = 1_000  # Revisions.
IDLE_SAVES = 60  # Times ``save_every``.


class DeadLetter(Struct, frozen=True):
    """A revision that was passed over.

    Attributes:
        rev: its number.
        id: of its state.
        error: what the handler raised last, or why the revision cannot be read.
    """

    rev: int
    id: str
    error: str


class Place(Struct, frozen=True, omit_defaults=True):
    """Up to which revision a consumer has come, and what it has passed over."""

    rev: int
    letters: tuple[DeadLetter, ...] = ()

    def passing(self, letter: DeadLetter) -> "Place":
        """Return the place behind a revision that is passed over."""
        kept = replace(letter, error=letter.error[:MOST_ERROR])
        return Place(letter.rev, (*self.letters, kept)[-MOST_LETTERS:])


def place_id(name: str) -> str:
    """Return the id of the state that keeps the place of a consumer."""
    return PREFIX + name


async def read_place(engine: Engine, name: str) -> State | None:
    """Return the state that keeps the place of a consumer, if there is one."""
    with contextlib.suppress(StateNotFoundError):
        return await engine.get_state(place_id(name))
    return None


async def count_after(driver: Driver, query: StateQuery, limit: int) -> int:
    """Count the matching revisions above the cursor that are not the library's own.

    Reads the pages on which they are, and no further than ``limit``.
    """
    count, more = 0, True
    while more and count < limit:
        page = await driver.get_states(replace(query, limit=min(MAX_PAGE, limit - count)))
        count += sum(not each.id.startswith(INTERNAL) for each in revisions(page))
        query, more = replace(query, after=page.scanned_to), page.more
    return count


class Cursor:
    """The place of a consumer while this process consumes.

    Args:
        engine: open.
        lease: held; its fence is part of each commit.
        ctx: of the state that keeps the place.
        save_every: seconds.

    Attributes:
        done: everything up to this revision is dealt with, though that may not be stored yet.
        lock: for those who handle or store.
    """

    def __init__(self, engine: Engine, lease: Lease, ctx: StateContext, save_every: float) -> None:
        self.done = self._start_of(ctx.committed)
        self._engine = engine
        self._lease = lease
        self._ctx = ctx
        self._save_every = save_every
        self._saved_at = engine.clock.monotonic()
        self._loose = 0  # How many revisions were handled behind what is stored.
        self.lock = asyncio.Lock()

    @staticmethod
    def _start_of(stored: State) -> int:
        """Return from where to read: also behind the place's own revision, if that comes next.

        Compaction up to there then leaves no gap.
        """
        rev = stored.get(Place).rev
        return stored.rev if stored.rev == rev + 1 else rev

    @classmethod
    async def open(
        cls, engine: Engine, lease: Lease, name: str, since: int, save_every: float
    ) -> "Cursor":
        """Read the place, or begin behind a revision if there is none yet."""
        stored = await read_place(engine, name)
        ctx = StateContext(stored or State(place_id(name), labels={LABEL: name}))
        if stored is None:
            ctx.put(Place(since))
            await engine.do(Commit(lease.check(), Pause(ctx)))
        return cls(engine, lease, ctx, save_every)

    @property
    def is_held(self) -> bool:
        """Whether the place is still this process's to move, for all it can know."""
        return self._lease.is_held

    @property
    def place(self) -> Place:
        """What is stored."""
        return self._ctx.committed.get(Place)

    async def commit(self, commands: Sequence[Command[Any]], place: Place) -> None:
        """Commit a place with what the handler wants, fenced by the lease."""
        self.moved(await self._commit(commands, place, None))

    async def commit_in(
        self, tx: Transaction, commands: Sequence[Command[Any]], place: Place
    ) -> StateContext:
        """Do the same within a transaction; pass what this returns to ``moved`` after its end."""
        return await self._commit(commands, place, tx)

    async def _commit(
        self, commands: Sequence[Command[Any]], place: Place, tx: Transaction | None
    ) -> StateContext:
        draft = self._ctx.copy()  # Stays as it is if the commit is refused.
        draft.put(place)
        await self._engine.do(Commit(self._lease.check(), *commands, Pause(draft)), tx=tx)
        return draft

    def moved(self, draft: StateContext) -> None:
        """Note that a place is stored."""
        self._ctx = draft
        self.done = max(self.done, self.place.rev)
        self._loose = 0
        self._saved_at = self._engine.clock.monotonic()

    def handled(self, rev: int) -> None:
        """Note a revision for which there is nothing to commit."""
        self.done = rev
        self._loose += 1

    def must_save(self) -> bool:
        """Return whether to store the place although there is nothing to commit with it.

        The place behind revisions that did not match is stored rarely: two idle consumers would
        wake each other with it.
        """
        waited = self._engine.clock.monotonic() - self._saved_at
        often = self._save_every * (1 if self._loose else IDLE_SAVES)
        return waited >= often or self._loose >= MOST_LOOSE

    async def save(self) -> None:
        """Store the place, if it has moved."""
        if self.done > self._start_of(self._ctx.committed):
            await self.commit((), replace(self.place, rev=self.done))
        self._loose, self._saved_at = 0, self._engine.clock.monotonic()
