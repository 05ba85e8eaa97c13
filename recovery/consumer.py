"""A durable reader of the log: its place is stored in one commit with what its handler does."""

import asyncio
import contextlib
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Self

import attrs
from msgspec import Struct
from msgspec.structs import replace

from flowstate.commands import Command, Commit, Labels, Pause
from flowstate.context import StateContext
from flowstate.driver import Transaction
from flowstate.engine import Engine
from flowstate.errors import (
    CompactedError,
    DamagedRevisionError,
    EngineStoppedError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.frozen import EMPTY
from flowstate.limits import check_id
from flowstate.options import flag, has, optional, seconds
from flowstate.recovery.lease import SHORTEST_SECONDS, Lease
from flowstate.recovery_rules import LONGEST
from flowstate.retrying import RetryPolicy, text_of
from flowstate.state import State, Status
from flowstate.tasks import cancel_and_wait, first, spawn

__all__ = ["Consumer", "DeadLetter", "Handler"]

logger = logging.getLogger("flowstate.recovery")

INTERNAL = "flowstate."  # Begins the ids of states of the library's own.
PREFIX = "flowstate.consumer."
PATIENT = RetryPolicy(attempts=1_000_000, longest=60.0)
MOST_LETTERS = 100
IDLE_SAVES = 60  # Times ``save_every``.

Since = Literal["start", "now"] | int
Answer = Command[Any] | Sequence[Command[Any]] | None
Handler = Callable[..., Answer | Awaitable[Answer]]
"""Takes a revision, and with ``transaction`` also that; returns what is to be committed."""


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
        """Return the place after a revision that is passed over."""
        return Place(letter.rev, (*self.letters, letter)[-MOST_LETTERS:])


def _is_name(_: object, __: object, value: str) -> None:
    check_id("name", value)
    check_id("name", PREFIX + value)


def _is_since(_: object, __: object, value: object) -> None:
    if value not in ("start", "now") and (type(value) is not int or value < 0):
        raise InvalidInputError("since", f"must be 'start', 'now' or a revision, not {value!r}")


# state     means                                  left by
# standby   another process holds the lease        lease held → reading
# reading   waits for the next revision            a revision → handling; lease lost → standby;
#                                                  the store fails → standby, after a pause
# handling  the handler runs, or its commit is on  committed → reading; it fails → handling again,
#           its way                                after a pause, or passed over → reading;
#                                                  lease lost → standby
# left      the place is stored, the lease given back
@attrs.define(eq=False, repr=False)
class Consumer:
    """Hands each revision to a handler, in order, and commits what that returns with its place.

    Of all processes that use the same name on the same store, one consumes at a time. What the
    handler returns and the new place are one commit, with the fence of the lease: as far as the
    store is concerned, each revision is handled exactly once. Effects elsewhere can happen again
    after a crash: give them a key, such as the revision::

        async def count(state: State) -> Command[None]:
            total = StateContext(await engine.get_state("total"))
            total.put(total.get(int) + 1)
            return Pause(total)

        async with Consumer(engine, "totals", count, labels={"kind": "order"}):
            ...

    The place after revisions for which the handler returned nothing is stored only after
    ``save_every`` seconds, so these may come again after a crash. Revisions of the library's own
    states, whose ids begin with ``flowstate.``, are left out.

    Args:
        engine: open until the consumer is left.
        name: of the place and the lease.
        handler: plain or ``async``. It is called with a :class:`State`, and with ``transaction``
            also with what that gives. It returns a command, several, or ``None``.
        labels: which states, as in :class:`flowstate.GetStates`.
        status: only revisions with this status.
        since: where to begin if there is no place yet: ``"start"`` of the log, ``"now"``, or after
            a revision.
        transaction: makes a transaction for each call, such as ``driver.transaction`` of Postgres.
            What the handler writes in it, what it returns, and the place happen together.
        retry: says how long to pause after a failure, and which errors are worth another attempt.
            A revision whose attempts are used up is tried on, with the longest pause.
        skip: pass such a revision over instead, and one that cannot be read, and keep it among
            the dead letters.
        skip_gap: go on behind revisions that were compacted before they were handled, instead of
            trying again and again.
        save_every: seconds.
        lease_seconds: after which a silent process is replaced.
        rng: draws pauses.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "do", "driver", "clock"))
    _name: str = attrs.field(validator=_is_name)
    _handler: Handler = attrs.field(validator=has("a function", "__call__"))
    _labels: Labels = attrs.field(default=EMPTY, kw_only=True)
    _status: Status | None = attrs.field(default=None, kw_only=True)
    _since: Since = attrs.field(default="start", kw_only=True, validator=_is_since)
    _transaction: Callable[[], AbstractAsyncContextManager[Any]] | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a function", "__call__"))
    )
    _retry: RetryPolicy = attrs.field(
        default=PATIENT, kw_only=True, validator=has("a RetryPolicy", "pause", "retries")
    )
    _skip: bool = attrs.field(default=False, kw_only=True, validator=flag)
    _skip_gap: bool = attrs.field(default=False, kw_only=True, validator=flag)
    _save_every: float = attrs.field(default=5.0, kw_only=True, validator=seconds())
    _lease_seconds: float = attrs.field(
        default=15.0, kw_only=True, validator=seconds(SHORTEST_SECONDS, LONGEST)
    )
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _chance: random.Random = attrs.field(init=False)
    _lease: Lease = attrs.field(init=False)
    _cursor: StateContext | None = attrs.field(init=False, default=None)
    _done: int = attrs.field(init=False, default=0)  # Handled up to here, though not stored yet.
    _saved_at: float = attrs.field(init=False, default=0.0)
    _is_loose: bool = attrs.field(init=False, default=False)  # Handled more than is stored.
    _task: "asyncio.Task[None] | None" = attrs.field(init=False, default=None)

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or random.Random()  # noqa: S311 - no secret
        self._lease = Lease(
            self._engine,
            PREFIX + self._name,
            seconds=self._lease_seconds,
            rng=self._chance,
        )
        await self._lease.__aenter__()
        self._task = spawn(self._run(), f"flowstate consumer {self._name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait(self._task)
            with contextlib.suppress(Exception):  # It is only a matter of what comes again.
                await self._save()
        finally:
            await self._lease.__aexit__(*exc_info)

    @property
    def is_consuming(self) -> bool:
        """Whether this process consumes just now."""
        return self._task is not None and self._lease.is_held

    async def lag(self) -> int:
        """Return how many revisions were committed after the stored place, matching or not."""
        head, place = await self._engine.head(), await self._read()
        return head if place is None else head - place.get(Place).rev

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return what was passed over, the newest last; at most 100 are kept."""
        place = await self._read()
        return () if place is None else place.get(Place).letters

    async def _read(self) -> State | None:
        with contextlib.suppress(StateNotFoundError):
            return await self._engine.get_state(PREFIX + self._name)
        return None

    async def _run(self) -> None:
        """Consume while the lease is held; what fails is tried again later and later."""
        failures = 0
        with contextlib.suppress(EngineStoppedError):
            while True:
                await self._lease.wait_held()
                before = self._done
                try:
                    await first(self._consume(), self._lease.wait_lost())
                    failures = 0
                except EngineStoppedError:
                    raise
                except (LeaseLostError, RevisionMismatchError):
                    self._lease.give_up()
                except Exception as error:  # Whatever it is, reading must go on.
                    failures = 1 if self._done > before else failures + 1
                    logger.exception("consumer %r cannot read on", self._name)
                    await self._pause(failures, error)

    async def _pause(self, failures: int, error: Exception) -> None:
        await self._engine.clock.sleep(self._retry.pause(failures, error, self._chance))

    async def _consume(self) -> None:
        self._cursor = await self._open_place()
        self._done = self._cursor.get(Place).rev
        self._saved_at = self._engine.clock.monotonic()
        try:
            await self._follow()
        except CompactedError as error:
            if not self._skip_gap:
                raise
            logger.error("consumer %r goes on behind a gap: %s", self._name, error)  # noqa: TRY400
            await self._commit((), Place(error.floor - 1, self._cursor.get(Place).letters))

    async def _open_place(self) -> StateContext:
        stored = await self._read()
        if stored is not None:
            return StateContext(stored)
        rev = self._since if type(self._since) is int else 0
        if self._since == "now":
            rev = await self._engine.head()
        ctx = StateContext(State(PREFIX + self._name, labels={"flowstate.consumer": self._name}))
        ctx.put(Place(rev))
        await self._engine.do(Commit(self._lease.check(), Pause(ctx)))
        return ctx

    async def _follow(self) -> None:
        since = self._done or None  # From the lowest revision that is stored.
        watch = self._engine.watch(labels=self._labels, status=self._status, since_rev=since)
        async with watch as states:
            while True:
                sleep = self._engine.clock.sleep(self._save_every, background=True)
                try:
                    state = await first(anext(states), sleep)
                except DamagedRevisionError as error:
                    await self._meet_damage(error)
                    continue
                if state is not None and not state.id.startswith(INTERNAL):
                    await self._handle(state)
                self._done = watch.cursor if state is None else state.rev
                if self._must_save():
                    await self._save()

    async def _meet_damage(self, error: DamagedRevisionError) -> None:
        if not self._skip:
            raise error
        await self._pass_over(DeadLetter(error.rev, error.id, text_of(error)))

    async def _handle(self, state: State) -> None:
        """Hand one revision over until that has been committed, or it is passed over."""
        failures = 0
        while True:
            try:
                return await self._attempt(state)
            except (EngineStoppedError, LeaseLostError):
                raise
            except RevisionMismatchError as lost:
                if {self._lease.id, PREFIX + self._name} & {*lost.ids}:
                    raise
                error: Exception = lost  # Others moved on what the handler wanted to change.
            except Exception as failure:
                logger.exception(
                    "consumer %r failed at revision %d of %r", self._name, state.rev, state.id
                )
                error = failure
            failures += 1
            is_worth_it = failures < self._retry.attempts and self._retry.retries(error)
            if self._skip and not is_worth_it:
                return await self._pass_over(DeadLetter(state.rev, state.id, text_of(error)))
            await self._pause(min(failures, self._retry.attempts), error)

    async def _attempt(self, state: State) -> None:
        if self._transaction is None:
            if commands := await self._ask(state):
                await self._commit(commands, self._place(state.rev))
            else:
                self._is_loose = True
            return
        async with self._transaction() as tx:
            commands = await self._ask(state, tx)
            draft = await self._commit(commands, self._place(state.rev), tx)
        self._stored(draft)

    async def _ask(self, *args: Any) -> Sequence[Command[Any]]:
        answer = self._handler(*args)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            return ()
        if isinstance(answer, Commit):
            return answer.commands
        return (answer,) if isinstance(answer, Command) else answer

    def _place(self, rev: int) -> Place:
        return replace(self._held_cursor().get(Place), rev=rev)

    def _held_cursor(self) -> StateContext:
        if self._cursor is None:
            raise LeaseLostError(self._name)
        return self._cursor

    async def _commit(
        self, commands: Sequence[Command[Any]], place: Place, tx: Transaction | None = None
    ) -> StateContext:
        """Commit the place with what the handler wants, fenced by the lease."""
        draft = self._held_cursor().copy()
        draft.put(place)
        await self._engine.do(Commit(self._lease.check(), *commands, Pause(draft)), tx=tx)
        if tx is None:  # Else it has happened at the end of the transaction.
            self._stored(draft)
        return draft

    def _stored(self, draft: StateContext) -> None:
        self._cursor, self._is_loose = draft, False
        self._saved_at = self._engine.clock.monotonic()

    async def _pass_over(self, letter: DeadLetter) -> None:
        logger.error(
            "consumer %r passes over revision %d of %r: %s",
            self._name,
            letter.rev,
            letter.id,
            letter.error,
        )
        await self._commit((), self._held_cursor().get(Place).passing(letter))
        self._done = letter.rev

    def _must_save(self) -> bool:
        """Return whether to store the place although the handler returned nothing.

        The place behind revisions that did not match is stored rarely: two idle consumers would
        wake each other with it.
        """
        waited = self._engine.clock.monotonic() - self._saved_at
        return waited >= self._save_every * (1 if self._is_loose else IDLE_SAVES)

    async def _save(self) -> None:
        """Store the place, if this process holds it and it has moved."""
        if self._cursor is not None and self._lease.is_held:
            if self._done > self._cursor.get(Place).rev:
                await self._commit((), self._place(self._done))
            self._is_loose, self._saved_at = False, self._engine.clock.monotonic()
