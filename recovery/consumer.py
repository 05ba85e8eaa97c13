"""A durable reader of the log: its place is stored in one commit with what its handler does."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Literal, Self

import attrs
from msgspec.structs import replace

from flowstate.commands import Labels
from flowstate.driver import StateQuery
from flowstate.engine import Engine
from flowstate.errors import (
    CompactedError,
    DamagedRevisionError,
    EngineStoppedError,
    HistoryRewoundError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_count, flag, has, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, first, note_outcome, spawn
from flowstate.log.reading import check_status, label_terms
from flowstate.log.watch import Watch
from flowstate.recovery.handling import Handler, Handling, MakeTransaction
from flowstate.recovery.lease import SHORTEST_SECONDS, Lease, lease_id
from flowstate.recovery.place import (
    INTERNAL,
    Cursor,
    DeadLetter,
    Place,
    count_after,
    place_id,
    read_place,
)
from flowstate.recovery_rules import LONGEST, MOST_ATTEMPTS
from flowstate.retrying import RetryPolicy
from flowstate.state import State, Status

__all__ = ["Consumer"]

logger = logging.getLogger("flowstate.recovery")

PATIENT = RetryPolicy(attempts=MOST_ATTEMPTS, longest=60.0)
SKIPPING = RetryPolicy(attempts=5, longest=60.0)
MOST_COUNTED = 10_000

Since = Literal["start", "now"] | int


def _is_name(_: object, __: object, value: str) -> None:
    check_id("name", value)
    check_id("name", lease_id(place_id(value)))  # The longest of the ids that it is part of.


def _is_since(_: object, __: object, value: object) -> None:
    if value not in ("start", "now") and (type(value) is not int or value < 0):
        raise InvalidInputError("since", "must be 'start', 'now' or a revision")


# state     means                                  left by
# new       made, not entered                      ``async with``, ``run`` → standby
# standby   another process holds the lease        lease held → reading; leaving → left
# reading   waits for the next revision            a revision → handling; lease lost → standby;
#                                                  the store fails → standby, after a pause;
#                                                  a gap in the log → failed; leaving → left
# handling  the handler runs, or its commit is on  committed → reading; it fails → handling again,
#           its way                                after a pause, or passed over → reading; lease
#                                                  lost → standby; leaving: first it has some time
# failed    no process can go on from the place; the lease is given back, ``run`` has raised
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

    The place behind revisions for which the handler returned nothing is stored only after
    ``save_every`` seconds or 1,000 such revisions, so these may come again after a crash.

    A consumer that was away for longer than the log is kept cannot know what it has missed. It
    stops then: :meth:`run` raises, and so does the end of ``async with``.

    Args:
        engine: open until the consumer is left.
        name: of the place and the lease.
        handler: plain or ``async``. It is called with a :class:`flowstate.State`, and with
            ``transaction`` also with that. It returns a command, several, or ``None``. They are
            done as one ``Commit``, which does not execute anything: to start a flow, return
            ``Transit(ctx, to), Delay(ctx, to, timedelta(0), commit=False)``.
        labels: which states, as in :class:`flowstate.GetStates`.
        status: only revisions with this status.
        since: where to begin if there is no place yet: ``"start"`` of the log, ``"now"``, or
            behind a revision.
        internal: also hand over revisions of the library's own states, whose ids begin with
            ``flowstate.``, apart from those that keep this consumer's place and lease.
        transaction: makes a transaction for each revision, such as one of Postgres. What the
            handler writes in it, what it returns, and the place happen together.
        retry: says how long to pause after a failure, and which errors are worth another attempt.
            A revision whose attempts are used up is tried on, with the longest pause. ``None``:
            pauses of up to a minute, and five attempts if ``skip`` is set.
        skip: pass such a revision over instead, and one that cannot be read, and keep it among
            the dead letters.
        skip_gap: go on behind revisions that were compacted before they were handled.
        save_every: seconds.
        grace: seconds that a handler has to end when the consumer is left; then it is cancelled.
        lease: seconds after which a silent process is replaced.
        rng: draws pauses.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "do", "driver", "clock"))
    _name: str = attrs.field(validator=_is_name)
    _handler: Handler = attrs.field(validator=has("a function"))
    _labels: Labels = attrs.field(
        default=EMPTY, kw_only=True, validator=lambda _, __, value: [*label_terms(value)]
    )
    _status: Status | None = attrs.field(
        default=None, kw_only=True, validator=lambda _, __, value: check_status(value)
    )
    _since: Since = attrs.field(default="start", kw_only=True, validator=_is_since)
    _internal: bool = attrs.field(default=False, kw_only=True, validator=flag)
    _transaction: MakeTransaction | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a function"))
    )
    _retry: RetryPolicy | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a RetryPolicy", "pause", "retries"))
    )
    _skip: bool = attrs.field(default=False, kw_only=True, validator=flag)
    _skip_gap: bool = attrs.field(default=False, kw_only=True, validator=flag)
    _save_every: float = attrs.field(default=5.0, kw_only=True, validator=seconds(0.001))
    _grace: float = attrs.field(default=10.0, kw_only=True, validator=seconds())
    _lease: float = attrs.field(
        default=15.0, kw_only=True, validator=seconds(SHORTEST_SECONDS, LONGEST)
    )
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _cursor: Cursor | None = attrs.field(init=False, default=None)  # While it consumes.
    _task: "asyncio.Task[None] | None" = attrs.field(init=False, default=None)
    _handling: Handling = attrs.field(init=False)
    _failures: int = attrs.field(init=False, default=0)  # To read, in a row.
    _has_revision: bool = attrs.field(init=False, default=False)  # Which is not dealt with yet.

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        chance = self._rng or random.Random()  # noqa: S311 - no secret
        place = place_id(self._name)
        lease = Lease(self._engine, place, seconds=self._lease, rng=chance)
        self._handling = Handling(
            self._engine,
            self._name,
            frozenset({place, lease.id}),
            self._handler,
            self._transaction,
            self._retry or (SKIPPING if self._skip else PATIENT),
            self._skip,
            chance,
        )
        self._task = spawn(self._run(lease), f"flowstate consumer {self._name}")
        self._task.add_done_callback(note_outcome)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the handler end, store the place, and give the lease back.

        Raises:
            CompactedError: as for :meth:`run`.
            HistoryRewoundError: as for :meth:`run`.
        """
        task, handling = self._task, self._handling
        if task is None:
            return
        handling.is_leaving = True
        try:
            if not handling.at_rest.is_set():
                await first(handling.at_rest.wait(), self._engine.clock.sleep(self._grace))
        finally:
            await cancel_and_wait(task)
            self._task = None
        if kind is None and not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def run(self) -> None:
        """Consume until this is cancelled, or the engine has stopped.

        Raises:
            CompactedError: revisions that were not handled are no longer stored.
            HistoryRewoundError: the place is above the head of the store.
        """
        async with self:
            if self._task is not None:
                await asyncio.wait([self._task])

    @property
    def is_consuming(self) -> bool:
        """Whether this process consumes just now."""
        return self._cursor is not None

    async def lag(self, limit: int = MOST_COUNTED) -> int:
        """Return how many revisions are still to be handled; reads them.

        A process that only stands by counts from the stored place, and so may count what was
        handled in the last ``save_every`` seconds.

        Args:
            limit: count no further than this.

        Raises:
            InvalidInputError: a bad limit.
        """
        check_count("limit", limit, 1)
        after = self._cursor.done if self._cursor is not None else await self._stored_rev()
        query = StateQuery(label_terms(self._labels), after=after, status=self._status)
        return await count_after(self._engine.driver, query, limit)

    async def _stored_rev(self) -> int:
        stored = await read_place(self._engine, self._name)
        return await self._first_rev() if stored is None else stored.get(Place).rev

    async def _first_rev(self) -> int:
        if self._since == "now":
            return await self._engine.head()
        return 0 if self._since == "start" else int(self._since)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return what was passed over, the newest last; at most 100 are kept."""
        stored = await read_place(self._engine, self._name)
        return () if stored is None else stored.get(Place).letters

    # The task

    async def _run(self, lease: Lease) -> None:
        with contextlib.suppress(EngineStoppedError):
            async with lease:
                try:
                    await self._lead(lease)
                except (CompactedError, HistoryRewoundError):
                    logger.exception("consumer %r cannot go on from its place", self._name)
                    raise

    async def _lead(self, lease: Lease) -> None:
        """Consume while the lease is held; what fails is tried again later and later."""
        while not self._handling.is_leaving:
            await lease.wait_held()
            try:
                await first(self._consume(lease), lease.wait_lost())
            except (EngineStoppedError, CompactedError, HistoryRewoundError):
                raise
            except RevisionMismatchError as lost:
                if lease.id in lost.ids:
                    lease.give_up()
                # Else the place was stored by a commit that seemed lost: it is read again.
            except LeaseLostError:
                pass  # The next holder goes on.
            except Exception as error:  # Whatever it is, reading must go on.
                self._failures += 1
                logger.exception("consumer %r cannot read on", self._name)
                await self._handling.pause(self._failures, error)

    async def _consume(self, lease: Lease) -> None:
        since = await self._first_rev()
        cursor = await Cursor.open(self._engine, lease, self._name, since, self._save_every)
        self._cursor, self._has_revision = cursor, False
        try:
            await self._follow(cursor)
        except CompactedError as error:
            if not self._skip_gap:
                raise
            logger.error("consumer %r goes on behind a gap: %s", self._name, error)  # noqa: TRY400
            await cursor.commit((), replace(cursor.place, rev=error.floor - 1))
        finally:
            self._cursor = None
            if lease.is_held:
                with contextlib.suppress(Exception):  # It only matters for what comes again.
                    await cursor.save()

    async def _follow(self, cursor: Cursor) -> None:
        since = cursor.done or None  # From the lowest revision that is stored.
        async with self._engine.watch(
            labels=self._labels, status=self._status, since_rev=since
        ) as watch:
            try:
                await first(self._read(cursor, watch), self._keep_saving(cursor, watch))
            finally:
                self._note_cursor(cursor, watch)

    def _note_cursor(self, cursor: Cursor, watch: Watch) -> None:
        """Note how far the watch has looked, unless it is ahead of the handler."""
        if not self._has_revision:
            cursor.done = max(cursor.done, watch.cursor)

    async def _keep_saving(self, cursor: Cursor, watch: Watch) -> None:
        """Store the place now and then, while no revision comes."""
        while True:
            await self._engine.clock.sleep(self._save_every, background=True)
            # Between the look and the lock nothing waits, so no revision can come.
            if not self._has_revision:
                async with cursor.lock:
                    self._note_cursor(cursor, watch)
                    if cursor.must_save():
                        await cursor.save()

    async def _read(self, cursor: Cursor, watch: Watch) -> None:
        while not self._handling.is_leaving:
            found: State | DamagedRevisionError
            try:
                found = await anext(watch)
            except DamagedRevisionError as error:
                found = error
            self._has_revision = True  # At once: the cursor of the watch is behind it already.
            async with cursor.lock:
                if self._is_wanted(found.id) and not await self._handling.deal_with(cursor, found):
                    return
                cursor.done = max(cursor.done, found.rev)
                if cursor.must_save():
                    await cursor.save()
            self._has_revision, self._failures = False, 0

    def _is_wanted(self, id: str) -> bool:
        if id.startswith(INTERNAL):
            return self._internal and id not in self._handling.own
        return True
