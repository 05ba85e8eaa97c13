"""Messages, times, cancels, pauses and edits at the same moment: none is missed or done twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from flowstate import (
    Clock,
    Delay,
    FakeClock,
    RetryPolicy,
    StateContext,
    Status,
    SystemClock,
)
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Run, StepOptions, Wait
from flowstate.mailboxes.mailbox import Mailbox, mailbox_id
from tests.engines.kernel.running import kernel_of
from tests.engines.kernel.tables import Done, Next, Table
from tests.engines.kernel.test_stores import kernel_on
from tests.engines.stores import STORES, driver_of

MESSAGES = 6
OFTEN = RetryPolicy(attempts=10, first=0.0)


class Note(msgspec.Struct):
    n: int


class Stop(msgspec.Struct):
    pass


class Race:
    """One instance that takes notes, and all that is done to it, drawn from a seed.

    Attributes:
        code: waits for notes, each time for a while, with a step after each; a cancel is one more
            thing to note. It ends with ``Stop``.
        sent: numbers of notes that were acknowledged.
    """

    def __init__(self, seed: int, clock: Clock, unit: float) -> None:
        self.rng, self.clock, self.unit = Random(seed), clock, unit
        self.id = f"race {seed}"
        self.sent: set[int] = set()
        self.fails = self.rng.random() < 0.3
        self.seconds = self.rng.choice([0, 1, 2, 3]) * unit
        self.code = Table(
            self.id,
            {"wait": (self._ask, self._took), "step": (self._work, self._worked)},
            catches={"wait": self._interrupted, "step": self._interrupted},
        )

    def _ask(self, *_: object) -> Wait:
        return Wait("wait", (Note, Stop), timedelta(seconds=self.seconds or 1e6))

    def _took(self, _: object, data: dict[str, Any], message: object) -> Next:
        if isinstance(message, Stop):
            return Done(data)
        assert isinstance(message, Note)
        data.setdefault("notes", []).append(message.n)
        return "step"

    def _work(self, *_: object) -> Run:
        return Run("step", self._step, options=StepOptions(retry=OFTEN))

    async def _step(self) -> None:
        await self._pause()
        if self.fails and self.rng.random() < 0.5:
            raise ConnectionError

    def _worked(self, _: object, data: dict[str, Any], __: object) -> Next:
        data["steps"] = data.get("steps", 0) + 1
        return "wait"

    def _interrupted(self, _: object, data: dict[str, Any], error: BaseException) -> Next:
        data.setdefault("errors", []).append(type(error).__name__)
        return "wait"

    async def _pause(self) -> None:
        """Wait for a time at which other things happen as well, or for some turns of the loop."""
        if self.rng.random() < 0.5:
            await self.clock.sleep(self.rng.choice([0, 1, 1, 2, 3]) * self.unit)
        for _ in range(self.rng.randrange(12)):
            await asyncio.sleep(0)

    async def run(self, kernel: Kernel) -> None:
        """Let it all happen, then end it and look at what has come of it."""
        if self.rng.random() < 0.5:
            await kernel.start(self.code, self.id, {})
            early = False
        else:
            early = True
        clients: list[Callable[[Kernel], Awaitable[object]]] = []
        clients += [self._sender(n, early=early) for n in range(MESSAGES)]
        clients += self.rng.sample([self._cancel, self._hold, self._edit], self.rng.randrange(3))
        if early:
            clients.append(self._start)
        self.rng.shuffle(clients)
        await asyncio.gather(*(client(kernel) for client in clients))
        await kernel.send(self.id, Stop())
        await kernel.resume(self.id)
        await self._look(kernel, await kernel.result(self.id, timeout=1_000 * self.unit + 20))

    async def _start(self, kernel: Kernel) -> None:
        await self._pause()
        await kernel.start(self.code, self.id, {})

    def _sender(self, n: int, *, early: bool) -> Callable[[Kernel], Awaitable[None]]:
        async def send(kernel: Kernel) -> None:
            await self._pause()
            key = f"note {n}" if n % 2 else None
            for _ in range(2 if key and self.rng.random() < 0.5 else 1):
                await kernel.send(self.id, Note(n), key=key, early=early)
            self.sent.add(n)

        return send

    async def _cancel(self, kernel: Kernel) -> None:
        await self._pause()
        await kernel.engine.signal(self.id, "$control", "cancel", early=True)

    async def _hold(self, kernel: Kernel) -> None:
        await self._pause()
        await kernel.engine.signal(self.id, "$control", "pause", early=True)
        await self._pause()
        await kernel.engine.signal(self.id, "$control", "resume", early=True)

    async def _edit(self, kernel: Kernel) -> None:
        await self._pause()

        def edit(ctx: StateContext) -> Delay | None:
            if ctx.current.status is Status.ENDED:
                return None
            ctx.put({**ctx.get(dict[str, Any], "data"), "edited": True}, "data")
            if ctx.current.status is Status.PAUSED:
                return None
            # Else it waits for recovery, if it is edited before its turn has begun.
            return Delay(ctx, ctx.current.transition.to, timedelta(0))

        await kernel.engine.wait_for(self.id, until=lambda _: True)
        await kernel.engine.update(self.id, edit)

    async def _look(self, kernel: Kernel, data: dict[str, Any]) -> None:
        taken = Counter(data.get("notes", []))
        state = await kernel.engine.get_state(mailbox_id(self.id))
        left = Counter(
            msgspec.json.decode(message.value, type=Note).n
            for message in Mailbox.of(state).messages
            if message.name == "Note"
        )
        assert taken + left == Counter(self.sent), (taken, left, data)
        # What it stopped with came after all of them.
        assert not left, (taken, left, data)


async def race(seed: int) -> None:
    clock = FakeClock()
    chance = Race(seed, clock, 1.0)
    async with kernel_of(chance.code, clock=clock, rng=Random(seed)) as kernel:
        await chance.run(kernel)


async def test_races_in_virtual_time() -> None:
    for seed in range(300):
        try:
            async with asyncio.timeout(10):
                await race(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
async def test_more_races_in_virtual_time() -> None:
    for seed in range(1_000, 11_000):
        try:
            await race(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize(
    "count", [40, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("store", STORES)
async def test_races_on_each_store(store: str, count: int, request: pytest.FixtureRequest) -> None:
    races = [Race(seed, SystemClock(), 0.01) for seed in range(count)]
    room = asyncio.Semaphore(20)

    async def run(each: Race, kernel: Kernel) -> None:
        async with room:
            try:
                await each.run(kernel)
            except BaseException as error:
                error.add_note(each.id)
                raise

    codes = [each.code for each in races]
    async with kernel_on(driver_of(store, request), *codes) as kernel, asyncio.TaskGroup() as group:
        for each in races:
            group.create_task(run(each, kernel))
