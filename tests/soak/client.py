"""A client that goes on whatever happens: ``python -m tests.soak.client URL SCHEMA FILE SEED``.

It commits, reads and watches until its input ends, and records all of it in the file.
"""

import asyncio
import contextlib
import logging
import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flowstate import (
    Check,
    Command,
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Transit,
)
from flowstate.clock import Clock, SystemClock
from flowstate.ground.tasks import cancel_and_wait
from flowstate.testing.faults import WrongClock
from flowstate.testing.histories.files import HistoryFile
from flowstate.testing.histories.recorder import Recorder
from tests.recovery.stores import driver_on

__all__ = ["BEGUN"]

BEGUN = "begun"
TASKS = 4
IDS = [f"state-{number}" for number in range(40)]
KINDS = "abc"
FILTERS: list[list[dict[str, str]]] = [[], [{"kind": "a"}], [{"kind": "b"}, {"kind": "c"}]]
PART_OF_CHECKS = 0.3
PART_OF_LATEST = 0.3
MOST_DELIVERED = 300  # By one session of a watch.
MOST_WRONG = 3_600.0  # Seconds.
RATES = 0.8, 1.25
PAUSE = 0.05  # Seconds after an error, so that a server that is down is not asked for nothing.


class Client:
    """One task with contexts of its own, which others make out of date."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine = engine
        self._rng = rng
        self._contexts: dict[str, StateContext] = {}

    async def run(self) -> None:
        """Do one thing after the other until cancelled; what fails is done no more."""
        while True:
            act = self._rng.choices([self._commit, self._get, self._page], [6, 5, 1])[0]
            try:
                await act()
            except (DriverError, CommitUnknownError):
                self._contexts.clear()  # Nobody knows what they are now.
                await asyncio.sleep(PAUSE)

    async def _commit(self) -> None:
        rng = self._rng
        ids = rng.sample(IDS, rng.choice([1, 1, 1, 2, 3]))
        contexts = [await self._context(id) for id in ids]
        commands = [self._step(ctx) for ctx in contexts]
        if len(contexts) > 1 and rng.random() < PART_OF_CHECKS:
            commands[-1] = Check(contexts[-1])
        try:
            await self._engine.do(Commit(*commands))
        except RevisionMismatchError as error:
            for id in error.ids:
                self._contexts.pop(id, None)

    def _step(self, ctx: StateContext) -> Command[Any]:
        ctx.set_label("kind", self._rng.choice(KINDS))
        return Pause(ctx) if self._rng.random() < PART_OF_CHECKS else Transit(ctx, "next")

    async def _context(self, id: str) -> StateContext:
        if id not in self._contexts:
            self._contexts[id] = StateContext(State(id))
            with contextlib.suppress(StateNotFoundError):
                self._contexts[id] = StateContext(await self._engine.get_state(id))
        return self._contexts[id]

    async def _get(self) -> None:
        id = self._rng.choice(IDS)
        self._contexts.pop(id, None)
        await self._context(id)

    async def _page(self) -> None:
        rng = self._rng
        await self._engine.get_states(
            labels=rng.choice(FILTERS),
            since_rev=rng.randrange(max(1, await self._engine.head())),
            latest_only=rng.random() < PART_OF_LATEST,
            limit=rng.randrange(1, 50),
        )


async def watch(recorder: Recorder, engine: Engine, rng: random.Random, **filters: Any) -> None:
    """Watch until cancelled, with a new session now and then, and after each error."""
    name, cursor = None, 0
    while True:
        watching = recorder.watch(engine, name, since_rev=cursor, **filters)
        name = watching.name
        try:
            async with watching:
                for _ in range(rng.randrange(1, MOST_DELIVERED)):
                    await anext(watching)
        except DriverError:
            await asyncio.sleep(PAUSE)
        cursor = watching.cursor


def wrong_clock(rng: random.Random) -> Clock:
    """Return a clock that is wrong by up to an hour, and goes too fast or too slowly."""
    error = timedelta(seconds=rng.uniform(-MOST_WRONG, MOST_WRONG))
    return WrongClock(SystemClock(), error=error, rate=rng.uniform(*RATES))


async def work(url: str, schema: str, path: Path, seed: str) -> None:
    """Do everything at once until the input ends."""
    flows = FlowRegistry()
    flows.declare("next")
    with HistoryFile(path) as file:
        clock = wrong_clock(random.Random(seed))
        recorder = Recorder(driver_on(url, schema, clock), file.append)
        async with Engine(recorder, flows, clock=clock) as engine:
            tasks = [
                asyncio.create_task(Client(engine, random.Random(f"{seed} {number}")).run())
                for number in range(TASKS)
            ]
            for filters in ({}, {"labels": {"kind": "a"}}):
                watching = watch(recorder, engine, random.Random(f"{seed} {filters}"), **filters)
                tasks.append(asyncio.create_task(watching))
            sys.stdout.write(f"{BEGUN}\n")
            sys.stdout.flush()
            reading = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
            done, _ = await asyncio.wait([reading, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await cancel_and_wait(*tasks)
            for task in done:
                task.result()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
