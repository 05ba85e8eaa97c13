"""Gives batches to the store, and finds out what became of one whose reply was lost."""

from collections.abc import Sequence
from datetime import datetime
from operator import ge
from typing import Any

from msgspec import msgpack

from flowstate.driver import Verdict, Writes
from flowstate.drivers.kit.resolving import Backoff, Failed, Resolver, resolved
from flowstate.drivers.kit.times import from_micros
from flowstate.drivers.redis.answers import decoding_errors, unpacked
from flowstate.drivers.redis.commits import encode, replay_of, verdicts_of
from flowstate.drivers.redis.store import OpenStore
from flowstate.errors import CommitUnknownError

__all__ = ["CommitResolver"]

STEPS = 500


class CommitResolver(Resolver):
    """Commits to a store that is open."""

    def __init__(self, store: OpenStore) -> None:
        self._store = store

    def backoff(self) -> Backoff:
        return self._store.backoff()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Return a verdict for each commit: see ``Driver.commit``."""
        try:
            return await self.call(batch)
        except Failed as first:
            return await resolved(self, batch, first, self._store.settings.clock)

    async def call(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        encoded = encode(batch)
        if self._store.settings.wait_aof is None:
            answer = await self._store.attempt(lambda: self._store.scripts.run("commit", *encoded))
            return verdicts_of(batch, answer)
        return await self._call_and_wait(batch, encoded, self._store.settings.wait_aof)

    async def _call_and_wait(
        self, batch: Sequence[Writes], encoded: Sequence[bytes], wanted: tuple[int, int]
    ) -> Sequence[Verdict]:
        # Half of the time, so that the server gives up before the client does.
        wait = (*wanted, round(500 * self._store.settings.timeout))
        answer, counts = await self._store.attempt(
            lambda: self._store.scripts.run_and_wait("commit", encoded, wait)
        )
        verdicts = verdicts_of(batch, answer)
        if all(map(ge, counts, wanted)):
            return verdicts
        return [
            CommitUnknownError(writes.token) if isinstance(verdict, tuple) else verdict
            for writes, verdict in zip(batch, verdicts, strict=True)
        ]

    async def find_replays(self, commits: Sequence[Writes]) -> Sequence[Verdict | None]:
        found: list[Verdict | None] = [None] * len(commits)
        left = {index: _traced(writes) for index, writes in enumerate(commits)}
        while left:
            asked = msgpack.encode(list(left.values()))
            answers = unpacked(await self._store.run("traces", asked, STEPS))
            for index, answer in zip(list(left), answers, strict=True):
                asked_for = left.pop(index)
                if type(answer) is int:
                    left[index] = (*asked_for[:-1], answer)
                else:
                    found[index] = self._replay(commits[index], answer)
        return found

    def _replay(self, writes: Writes, answer: list[Any] | bool) -> Verdict | None:
        if answer is False:
            return None
        replay = None if answer is True else replay_of(writes, answer)
        # It came by another connection, whose disks have not been waited for.
        if answer is True or (replay is not None and self._store.settings.wait_aof is not None):
            return CommitUnknownError(writes.token)
        return replay

    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        scripts = self._store.scripts
        answer = await self._store.attempt(lambda: scripts.run("delays", *ids))
        with decoding_errors():
            now, found = unpacked(answer)
            # As with replays. To store them again is to wait for the disks.
            known = found if self._store.settings.wait_aof is None else ()
            return from_micros(now), set(known)


def _traced(writes: Writes) -> tuple[Any, ...]:
    """Return what the script ``traces`` takes for a commit, to begin at the latest revision."""
    put = writes.puts[0]
    return put.id, put.rev, writes.token, len(writes.puts), False
