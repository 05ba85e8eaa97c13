"""What to do when an operation fails: try again, find out what happened, fail alone.

A driver's first attempt is its own and costs nothing here. When it raises :class:`Failed`,
:func:`resolved` takes over a batch of commits, and :func:`retried` all else.
"""

import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import attrs

from flowstate.clock import Clock
from flowstate.driver import Verdict, Writes
from flowstate.errors import CommitUnknownError, DriverError

__all__ = ["Backoff", "Failed", "Resolver", "is_same", "resolved", "retried"]

T = TypeVar("T")
FIRST_PAUSE = 0.02
LAST_PAUSE = 1.0
SPREAD = 0.5


class Failed(Exception):  # noqa: N818 - it never leaves a driver
    """One attempt failed.

    Attributes:
        error: to be raised, unless a further attempt works.
        passing: a further attempt may work.
        lost: the store may have done it all the same: the reply was lost.
        common: a smaller batch would fail as well: the store itself is the reason.
    """

    def __init__(
        self, error: DriverError, *, passing: bool = False, lost: bool = False, common: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.passing = passing
        self.lost = lost
        self.common = common or passing or lost


class Backoff:
    """Pauses that grow from 20 ms to a second, each of random length so that many spread out.

    Args:
        clock: to wait with.
        timeout: seconds from now after which there is no further attempt.
    """

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        self._length = FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait a little, and return whether there is time for another attempt."""
        if self._clock.monotonic() > self._deadline:
            return False
        await self.wait()
        return self._clock.monotonic() <= self._deadline

    async def wait(self) -> None:
        """Wait, each time up to twice as long as before."""
        spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret
        length, self._length = self._length * spread, min(2 * self._length, LAST_PAUSE)
        await self._clock.sleep(length)


async def retried(attempt: Callable[[], Awaitable[T]], failed: Failed, backoff: Backoff) -> T:
    """Go on after a first attempt that failed, with something that may be done more than once.

    Raises:
        DriverError: it does not work.
    """
    while failed.passing or failed.lost:
        if not await backoff.pause():
            break
        try:
            return await attempt()
        except Failed as again:
            failed = again
    raise failed.error from failed


class Resolver(Protocol):
    """What :func:`resolved` asks of a driver. Each raises :class:`Failed` or ``DriverError``."""

    @abstractmethod
    async def call(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Give a batch to the store, once."""

    @abstractmethod
    async def find_replays(self, commits: Sequence[Writes]) -> Sequence[Verdict | None]:
        """Return what became of commits that have puts.

        For each: its revisions, if it was committed (see :func:`is_same`); ``CommitUnknownError``,
        if compaction has removed what would tell; or ``None``: it was not committed.
        """

    @abstractmethod
    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        """Return the store's now, and which of these delays are there."""

    @abstractmethod
    def backoff(self) -> Backoff:
        """Return pauses for as long as an operation may take."""


def is_same(writes: Writes, index: int, id: str, body: str | bytes) -> bool:
    """Return whether a stored revision is what put ``index`` of a commit wrote."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    return id == writes.puts[index].id and text == writes.bodies[index]


async def resolved(
    resolver: Resolver, batch: Sequence[Writes], failed: Failed, clock: Clock
) -> list[Verdict]:
    """Go on after a first attempt that failed; return a verdict for each commit.

    Raises:
        DriverError: nothing was written.
    """
    lost = _Lost(resolver, clock)
    backoff = resolver.backoff()
    while True:
        lost.happened = lost.happened or failed.lost
        if not (failed.passing or failed.lost) or not await backoff.pause():
            break
        try:
            return await lost.call(batch)
        except Failed as again:
            failed = again
        except DriverError as error:
            failed = Failed(error)
    if lost.happened:
        return [CommitUnknownError(writes.token) for writes in batch]
    if failed.common:
        raise failed.error from failed
    return await _split(resolver, batch, failed, clock)


async def _split(
    resolver: Resolver, batch: Sequence[Writes], failed: Failed, clock: Clock
) -> list[Verdict]:
    """Let a commit that the store cannot take fail alone."""
    if len(batch) == 1:
        return [failed.error]
    verdicts: list[Verdict] = []
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        try:
            verdicts += await resolver.call(half)
        except Failed as again:
            verdicts += await _told(resolver, half, again, clock)
    return verdicts


async def _told(
    resolver: Resolver, batch: Sequence[Writes], failed: Failed, clock: Clock
) -> list[Verdict]:
    """Return an error as verdicts: another part of the batch may be committed."""
    try:
        return await resolved(resolver, batch, failed, clock)
    except DriverError as error:
        return [error for _ in batch]


@attrs.define
class _Lost:
    """Attempts of one batch, of which an earlier one may have been applied."""

    resolver: Resolver
    clock: Clock
    happened: bool = False
    began: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.began = self.clock.monotonic()

    async def call(self, batch: Sequence[Writes]) -> list[Verdict]:
        if not self.happened:
            return list(await self.resolver.call(batch))
        known = await self._fired(batch)
        rest = [index for index in range(len(batch)) if index not in known]
        if rest:
            commits = [batch[index] for index in rest]
            verdicts = await self.resolver.call(commits)
            known |= zip(rest, await self._with_replays(commits, verdicts), strict=True)
        return [known[index] for index in range(len(batch))]

    async def _fired(self, batch: Sequence[Writes]) -> dict[int, Verdict]:
        """Return verdicts on commits of delays alone, which must not be applied again.

        A delay that is there proves its commit. One that is not, although it was due, may have
        fired, and have been dropped.
        """
        known: dict[int, Verdict] = {}
        delaying = {i: _delay_ids(w) for i, w in enumerate(batch) if w.delays and not w.puts}
        if not delaying:
            return known
        now, stored = await self.resolver.find_delays(
            [id for ids in delaying.values() for id in ids]
        )
        for index, ids in delaying.items():
            if not stored.isdisjoint(ids):
                known[index] = ()
            elif self._was_due(batch[index], now):
                known[index] = CommitUnknownError(batch[index].token)
        return known

    def _was_due(self, writes: Writes, now: datetime) -> bool:
        passed = self.clock.monotonic() - self.began
        return any(
            delay.due <= now
            if delay.due is not None
            else delay.after is None or delay.after.total_seconds() <= passed
            for delay in writes.delays
        )

    async def _with_replays(
        self, commits: Sequence[Writes], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        """Give commits that were refused, because they had been committed, their old verdicts."""
        told = list(verdicts)
        refused = [index for index, verdict in enumerate(told) if isinstance(verdict, Exception)]
        for index in refused:
            if commits[index].delays and not commits[index].puts:
                # Its delays may have been stored, and have fired since.
                told[index] = CommitUnknownError(commits[index].token)
        refused = [index for index in refused if commits[index].puts]
        if refused:
            for index, found in zip(refused, await self._find(commits, refused), strict=True):
                told[index] = found or told[index]
        return told

    async def _find(
        self, commits: Sequence[Writes], refused: Sequence[int]
    ) -> Sequence[Verdict | None]:
        chosen = [commits[index] for index in refused]
        try:
            return await self.resolver.find_replays(chosen)
        except (Failed, DriverError):
            return [CommitUnknownError(writes.token) for writes in chosen]


def _delay_ids(writes: Writes) -> list[str]:
    return [f"{writes.token}.{index}" for index in range(len(writes.delays))]
