"""All stages, in some lanes, and what came of them.

What has an amount is done in processes of a pool; what has a time, one stage after the other beside
it. Whatever fails is shown with the command that replays it, and the rest goes on.
"""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.recovery.fire import check_under_fire
from tests.soak.crunching import crunch
from tests.soak.histories import Server, check_round
from tests.soak.places import durable_server, quick_servers
from tests.soak.stage import Outcome, Piece, Stage, Tally

__all__ = ["Soak", "say"]

HOUR = 60.0  # Minutes.
ROUND = 60.0  # Seconds that a stage with a time goes on without a look at what came of it.
TELL_EVERY = 5.0
CRUNCHING = 2  # Processes: while one waits for a server, the other one has a core.
JOBS_PER_SECOND = 40
GRACE = 300.0


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Soak:
    """All that is done, and what came of it.

    Args:
        stages: to be done.
        minutes: that they have.
        seed: of all chance; each piece of work has one of its own, from here on.
        amount: units of each stage that has an amount, if not as many as belong to the time.
        folder: for what is written.

    Attributes:
        tallies: of the stages.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        minutes: float,
        seed: int,
        amount: int | None,
        folder: Path,
    ) -> None:
        self.tallies = [
            Tally(
                stage,
                amount or max(stage.piece, int(stage.amount * minutes / HOUR)),
                stage.part * 60 * minutes * CRUNCHING,
            )
            if stage.amount
            else Tally(stage, 0)
            for stage in stages
        ]
        self._seconds = 60 * minutes
        self._seed = seed
        self._folder = folder
        self._began = time.monotonic()

    async def run(self) -> None:
        """Do everything, and tell the progress."""
        telling = asyncio.create_task(self._tell())
        counted = [tally for tally in self.tallies if tally.wanted]
        timed = [tally for tally in self.tallies if not tally.wanted]
        pieces = self._pieces(counted)
        try:
            with _pool() as pool, quick_servers() as urls:
                places = {**urls, "sqlite": str(self._folder)}
                async with asyncio.TaskGroup() as group:
                    for _ in range(CRUNCHING):
                        group.create_task(self._crunch(pieces, pool, places))
                    await self._under_fire(timed)
        finally:
            telling.cancel()

    @property
    def failures(self) -> list[str]:
        """Whatever went wrong."""
        return [failure for tally in self.tallies for failure in tally.failures]

    def _pieces(self, tallies: Sequence[Tally]) -> list[tuple[Tally, Piece]]:
        """Return all pieces in a mixed order, so that each stage has had its share at any time."""
        pieces = []
        for tally in tallies:
            seed = self._seed
            for start in range(0, tally.wanted, tally.stage.piece):
                amount = min(tally.stage.piece, tally.wanted - start)
                pieces.append((tally, Piece(tally.stage, seed, amount)))
                seed += amount if tally.stage.has_seeds else 1
        random.Random(self._seed).shuffle(pieces)
        return pieces

    async def _crunch(
        self,
        pieces: list[tuple[Tally, Piece]],
        pool: ProcessPoolExecutor,
        places: dict[str, str],
    ) -> None:
        loop = asyncio.get_running_loop()
        while pieces:
            tally, piece = pieces.pop()
            if tally.is_spent:
                continue
            began = time.monotonic()
            place = places.get(piece.stage.store, "")
            outcome = await loop.run_in_executor(pool, crunch, piece, place)
            last = piece.seed + (piece.amount - 1 if piece.stage.has_seeds else 0)
            self._add(tally, piece.seed, last, outcome, time.monotonic() - began)

    def _add(self, tally: Tally, first: int, last: int, outcome: Outcome, seconds: float) -> None:
        tally.add(first, last, outcome, seconds)
        for failure in outcome.failures:
            say(f"FAILED {tally.stage.name}: {failure}")

    async def _under_fire(self, tallies: Sequence[Tally]) -> None:
        """Do what has a time, one after the other, in rounds."""
        for tally in tallies:
            seconds = tally.stage.part * self._seconds
            rounds = max(1, round(seconds / ROUND))
            with durable_server(tally.stage.store) as server:
                for number in range(rounds):
                    seed = self._seed + number
                    began = time.monotonic()
                    tally.begin()
                    outcome = await self._round(tally.stage, server, seed, seconds / rounds)
                    self._add(tally, seed, seed, outcome, time.monotonic() - began)

    async def _round(
        self, stage: Stage, server: Server | None, seed: int, seconds: float
    ) -> Outcome:
        schema = f"{stage.name.replace('-', '_')}_{seed}"
        folder = self._folder / schema
        folder.mkdir()
        try:
            if stage.kind == "histories" and server is not None:
                outcome = await check_round(server, schema, folder, seed=seed, seconds=seconds)
            else:
                url = server.url() if server else str(folder / "store.db")
                outcome = await _burnt(url, schema, folder, seconds)
        except Exception as error:  # noqa: BLE001 - the others go on; it is shown with its command
            outcome = Outcome(0, [f"{type(error).__name__}: {error}\n    see {folder}"])
        minutes = seconds / 60 / stage.part
        command = f"python -m tests.soak --only {stage.name} --seed {seed} --minutes {minutes:.2f}"
        outcome.failures = [f"{each}\n    replay: {command}" for each in outcome.failures]
        return outcome

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            going = ", ".join(str(tally) for tally in self.tallies if tally.is_open)
            say(f"{minutes:3}:{seconds:02}  {going}; {len(self.failures)} failures")


async def _burnt(url: str, schema: str, folder: Path, seconds: float) -> Outcome:
    jobs = int(JOBS_PER_SECOND * seconds)
    told = await check_under_fire(url, schema, folder, jobs=jobs, seconds=seconds, grace=GRACE)
    say(f"{schema}: {told}")
    return Outcome(jobs)


def _pool() -> ProcessPoolExecutor:
    # Not forked: the servers and the event loop are none of its business.
    return ProcessPoolExecutor(max_workers=CRUNCHING, mp_context=get_context("spawn"))
