"""Gives batches to the store, and finds out what became of one whose reply was lost."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import ge
from typing import Any

from msgspec import msgpack
from msgspec.structs import replace

from flowstate.codec import encode_annotations
from flowstate.driver import NewDelay, NewTimer, Verdict, Writes
from flowstate.drivers.kit.records import TIMER_REV, state_of, text_of
from flowstate.drivers.kit.resolving import Failed, Resolver, is_same, resolved
from flowstate.drivers.kit.times import MICROSECOND, from_micros, stalling_micros
from flowstate.drivers.redis.reader import (
    decoding_errors,
    digits_of,
    row,
    time_of_digits,
    unpacked,
)
from flowstate.drivers.redis.store import OpenStore
from flowstate.errors import (
    ClaimLostError,
    CodecError,
    CommitUnknownError,
    DataNotFoundError,
    RevisionMismatchError,
)
from flowstate.state import State

__all__ = ["CommitResolver"]

_encoder = msgpack.Encoder()
MICROS_PER_SECOND = 1_000_000
STEPS = 500


class CommitResolver(OpenStore, Resolver):
    """A store that commits are given to."""

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Return a verdict for each commit: see ``Driver.commit``."""
        try:
            return await self.call(batch)
        except Failed as first:
            return await resolved(self, batch, first, self.options.clock)

    async def call(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        blobs: list[bytes] = []
        encoded = [_encoder.encode([_commit(writes, blobs) for writes in batch]), *blobs]
        wanted = self.options.wait_aof
        if wanted is None:
            answer = await self.attempt(lambda: self.scripts.run("commit", *encoded))
            return _verdicts(batch, answer)
        # Half of the time, so that the server gives up before the client does.
        wait = (*wanted, round(500 * self.options.timeout))
        answer, counts = await self.attempt(
            lambda: self.scripts.run_and_wait("commit", encoded, wait)
        )
        verdicts = _verdicts(batch, answer)
        if all(map(ge, counts, wanted)):
            return verdicts
        return [
            CommitUnknownError(writes.token) if isinstance(verdict, tuple) else verdict
            for writes, verdict in zip(batch, verdicts, strict=True)
        ]

    async def find_replays(self, commits: Sequence[Writes]) -> Sequence[Verdict | None]:
        found: list[Verdict | None] = [None] * len(commits)
        # For each, where to go on backwards: at first at the latest revision.
        left: dict[int, int | bool] = dict.fromkeys(range(len(commits)), False)
        while left:
            asked = [_traced(commits[index], start) for index, start in left.items()]
            answers = unpacked(await self.run("traces", msgpack.encode(asked), STEPS))
            answered = dict(zip(left, answers, strict=True))
            left = {index: answer for index, answer in answered.items() if type(answer) is int}
            for index in answered.keys() - left.keys():
                found[index] = self._replay(commits[index], answered[index])
        return found

    def _replay(self, writes: Writes, answer: list[Any] | bool) -> Verdict | None:
        """Return what a commit became: ``True`` says that it cannot be told any more."""
        if answer is False:
            return None
        replay = None if answer is True else _replay_of(writes, answer)
        # It came by another connection, whose disks have not been waited for.
        if answer is True or (replay is not None and self.options.wait_aof is not None):
            return CommitUnknownError(writes.token)
        return replay

    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        answer = await self.attempt(lambda: self.scripts.run("find_delays", *ids))
        with decoding_errors():
            now, found = unpacked(answer)
            # As with replays. To store them again is to wait for the disks.
            return from_micros(now), set(found if self.options.wait_aof is None else ())


def _traced(writes: Writes, start: int | bool) -> tuple[Any, ...]:
    put = writes.puts[0]
    return put.id, put.rev, writes.token, len(writes.puts), start


def _commit(writes: Writes, blobs: list[bytes]) -> tuple[Any, ...]:
    """Return what the script takes for a commit; its blobs are added to those of the batch."""
    puts = list(map(_put, writes.puts, writes.bodies))
    for index in writes.forgets:
        puts[index] = (*puts[index], True)
    for index in writes.keeps:
        until = writes.puts[index].delayed_until
        puts[index] = (*puts[index], False, True, until is not None and digits_of(until))
    data = []
    for each in writes.data:
        blobs.append(each.blob)
        annotations = encode_annotations(each.annotations).decode()
        data.append((each.checksum, annotations, len(blobs)))
    delays = [_delay(writes.delay_id(n), delay) for n, delay in enumerate(writes.delays)]
    delays += [_timer(timer, writes.puts[timer.put]) for timer in writes.timers]
    # An empty list costs the server more.
    return (
        writes.token,
        puts or False,
        writes.checks or False,
        writes.needs or False,
        data or False,
        delays or False,
        [(each.id, each.holder, *_split(timedelta(seconds=each.seconds))) for each in writes.claims]
        or False,
        [(drop.id, drop.holder) for drop in writes.drops] or False,
    )


def _put(state: State, body: str) -> tuple[Any, ...]:
    labels = [text for pair in state.labels.items() for text in pair] if state.labels else False
    sums = list({ref.checksum for ref in state.data.values()}) if state.data else False
    after = stalling_micros(state)
    micros, flow = after is not None and str(after), state.transition.to
    return state.id, state.rev, state.status._value_, body, labels, sums, micros, flow


def _delay(id: str, delay: NewDelay) -> tuple[Any, ...]:
    put = False if delay.put is None else delay.put + 1
    state, sums = delay.state, delay.references or False
    return id, put, state.id, state.rev, *_time(delay), delay.to, delay.body, sums


def _timer(timer: NewTimer, state: State) -> tuple[Any, ...]:
    return timer.id, False, state.id, TIMER_REV, *_time(timer), timer.to, timer.body, False


def _time(new: NewDelay | NewTimer) -> tuple[Any, ...]:
    """Return digits or false, and seconds and microseconds from now."""
    due = new.due is not None and digits_of(new.due)
    return due, *((0, 0) if new.after is None else _split(new.after))


def _split(duration: timedelta) -> tuple[int, int]:
    """Return seconds and microseconds."""
    return divmod(duration // MICROSECOND, MICROS_PER_SECOND)


@decoding_errors()
def _verdicts(commits: Sequence[Writes], answer: bytes) -> list[Verdict]:
    stamp, told = msgpack.decode(answer)
    at = from_micros(stamp)
    return [_verdict(writes, at, *each) for writes, each in zip(commits, told, strict=True)]


def _verdict(writes: Writes, at: datetime, kind: int, what: Any, untils: Any = None) -> Verdict:
    if kind == 1:
        return RevisionMismatchError(what)
    if kind == 2:  # noqa: PLR2004 - see the script
        return DataNotFoundError(f"data {', '.join(what)} is no longer stored")
    if kind:
        return ClaimLostError(what)
    states = []
    for index, state in enumerate(writes.puts):
        until = time_of_digits(untils[index]) if untils else None
        states.append(replace(state, rev=what + index, committed_at=at, delayed_until=until))
    return tuple(states)


def _replay_of(writes: Writes, found: Sequence[Any]) -> Verdict | None:
    """Return the revisions of a commit that have been found under its token.

    ``None`` if they are of another commit, ``CommitUnknownError`` if some are gone or damaged.
    """
    rows = [row(each) for each in found]
    if len(rows) != len(writes.puts):
        return CommitUnknownError(writes.token)
    for index, (_, id, _, _, body) in enumerate(rows):
        if not is_same(writes, index, text_of(id), body or ""):
            return None
    try:
        return tuple(map(state_of, rows))
    except CodecError:
        return CommitUnknownError(writes.token)
