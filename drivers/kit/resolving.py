"""What to do when an operation fails: try again, find out what happened, fail alone.

A driver's first attempt is its own and costs nothing here. When it raises :class:`Failed`,
:func:`resolved` takes over a batch of commits, and :func:`retried` all else.
"""

import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Protocol, TypeVar

from flowstate.clock import Clock
from flowstate.driver import NewDelay, Verdict, Writes
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
        self.timeout = timeout
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
        """Return what became of commits that have puts, of which the state may be forgotten since.

        For each: its revisions, if it was committed (see :func:`is_same`); ``CommitUnknownError``,
        if compaction has removed what would tell; or ``None``: it was not committed.
        """

    @abstractmethod
    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        """Return the store's now, and which of these delays are there."""

    @abstractmethod
    def backoff(self) -> Backoff:
        """Return pauses for the time that is left for the operation."""


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
    began, backoff = clock.monotonic(), resolver.backoff()
    lost = failed.lost
    while (failed.passing or failed.lost) and await backoff.pause():
        try:
            if lost:
                # The lost attempt may have begun as long ago as an operation may take.
                passed = clock.monotonic() - began + backoff.timeout
                return await _call_again(resolver, batch, passed)
            return list(await resolver.call(batch))
        except Failed as again:
            failed = again
            lost = lost or failed.lost
        except DriverError as error:
            failed = Failed(error, common=True)
    if lost:
        return _unknown(batch, failed.error)
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
            try:
                verdicts += await resolver.call(half)
            except Failed as again:
                verdicts += await resolved(resolver, half, again, clock)
        except DriverError as error:  # The other half may be committed.
            verdicts += [error for _ in half]
    return verdicts


async def _call_again(resolver: Resolver, batch: Sequence[Writes], passed: float) -> list[Verdict]:
    """Give a batch to the store that may have applied it up to ``passed`` seconds ago."""
    known = await _fired(resolver, batch, passed)
    known |= await _begun(resolver, batch)
    rest = [index for index in range(len(batch)) if index not in known]
    if rest:
        commits = [batch[index] for index in rest]
        verdicts = await _with_replays(resolver, commits, await resolver.call(commits))
        known |= zip(rest, verdicts, strict=True)
    return [known[index] for index in range(len(batch))]


async def _fired(resolver: Resolver, batch: Sequence[Writes], passed: float) -> dict[int, Verdict]:
    """Return verdicts on commits of delays alone, which must not be applied again.

    A delay that is there proves its commit. One that is not, although it was due, may have
    fired, and have been dropped.
    """
    ids = {n: _delay_ids(writes) for n, writes in enumerate(batch) if _only_delays(writes)}
    if not ids:
        return {}
    now, stored = await resolver.find_delays([*chain.from_iterable(ids.values())])
    known: dict[int, Verdict] = {}
    for index, own in ids.items():
        if not stored.isdisjoint(own):
            known[index] = ()
        elif any(_was_due(delay, now, passed) for delay in batch[index].delays):
            known[index] = CommitUnknownError(batch[index].token)
    return known


async def _begun(resolver: Resolver, batch: Sequence[Writes]) -> dict[int, Verdict]:
    """Return verdicts on commits that were applied, and would not be refused the second time.

    A state that was forgotten meanwhile takes its first revision again.
    """
    fresh = [n for n, writes in enumerate(batch) if _only_begins(writes)]
    if not fresh:
        return {}
    found = await resolver.find_replays([batch[index] for index in fresh])
    return {n: told for n, told in zip(fresh, found, strict=True) if told is not None}


def _only_begins(writes: Writes) -> bool:
    return bool(writes.puts) and not any(put.rev for put in writes.puts)


def _was_due(delay: NewDelay, now: datetime, passed: float) -> bool:
    if delay.due is not None:
        return delay.due <= now
    return delay.after is None or delay.after.total_seconds() <= passed


async def _with_replays(
    resolver: Resolver, commits: Sequence[Writes], verdicts: Sequence[Verdict]
) -> list[Verdict]:
    """Give commits that were refused, because they had been committed, their old verdicts."""
    told = list(verdicts)
    refused = [n for n, verdict in enumerate(told) if isinstance(verdict, Exception)]
    for index in refused:
        if _only_delays(commits[index]):  # They may have been stored, and have fired since.
            told[index] = CommitUnknownError(commits[index].token)
    putting = [index for index in refused if commits[index].puts]
    if putting:
        chosen = [commits[index] for index in putting]
        try:
            found = await resolver.find_replays(chosen)
        except (Failed, DriverError) as error:
            found = _unknown(chosen, error.error if isinstance(error, Failed) else error)
        for index, verdict in zip(putting, found, strict=True):
            told[index] = told[index] if verdict is None else verdict
    return told


def _unknown(batch: Sequence[Writes], why: DriverError) -> list[Verdict]:
    """Return verdicts that have as their cause why nothing could be found out."""
    verdicts = [CommitUnknownError(writes.token) for writes in batch]
    for verdict in verdicts:
        verdict.__cause__ = why
    return [*verdicts]


def _only_delays(writes: Writes) -> bool:
    return bool(writes.delays and not writes.puts)


def _delay_ids(writes: Writes) -> list[str]:
    return [*map(writes.delay_id, range(len(writes.delays)))]
