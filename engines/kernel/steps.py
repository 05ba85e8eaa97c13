"""Runs steps: coroutines as tasks, plain functions in worker threads, both with a time limit."""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any

import attrs

from flowstate.clock import Clock
from flowstate.engines.kernel.operations import Run
from flowstate.tasks import BlockingThreads, cancel_and_wait, note_outcome, spawn

__all__ = [
    "MakeTransaction",
    "Step",
    "Steps",
    "effect_key",
    "instance_id",
    "is_async",
    "is_told_to_stop",
]

GRACE = 5.0  # Seconds for a step to end that was cancelled.

MakeTransaction = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a transaction of the store, such as one of Postgres; see ``docs/postgres.md``."""


@attrs.define(eq=False)
class Step:
    """A step that runs.

    Attributes:
        thread: the name of the thread whose step it is.
        run: what it does.
        key: for its effects.
        ends_at: when its attempt has taken too long, by the monotonic clock.
        passed: how many stops its thread had passed.
        told: nothing waits for it any more.
        task: gives what the step returns, or raises what it raises.
        tx: the open transaction, when the step has returned.
        is_committed: set when the transaction may end.
    """

    thread: str
    run: Run
    key: str
    ends_at: float | None = None
    passed: int = 0
    told: bool = False
    task: "asyncio.Task[Any]" = attrs.field(init=False)
    returned: "asyncio.Future[Any] | None" = None
    tx: Any = None
    is_committed: asyncio.Event | None = None

    @property
    def done(self) -> "asyncio.Future[Any]":
        """What is done as soon as the step has returned."""
        return self.task if self.returned is None else self.returned


_step: ContextVar[Step | None] = ContextVar("flowstate_step", default=None)


def effect_key() -> str:
    """Return the key of the step that runs: the same over attempts, crashes and edits.

    Raises:
        LookupError: no step runs here.
    """
    return _here().key


def instance_id() -> str:
    """Return the id of the instance whose step runs here.

    Raises:
        LookupError: no step runs here.
    """
    step = _here()
    return step.key.rpartition("/")[0].removesuffix(f"/{step.thread}/{step.run.name}")


def is_told_to_stop() -> bool:
    """Return whether nothing waits for the step that runs: it was cancelled, or is too late.

    A step in a worker thread cannot be stopped; a long one asks from time to time.

    Raises:
        LookupError: no step runs here.
    """
    return _here().told


def _here() -> Step:
    step = _step.get()
    if step is None:
        raise LookupError("no step runs here")
    return step


class Steps:
    """The steps that run in one turn, by the names of their threads."""

    def __init__(
        self, clock: Clock, threads: BlockingThreads, make_transaction: MakeTransaction | None
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._make_transaction = make_transaction
        self.running: dict[str, Step] = {}

    def start(self, thread: str, run: Run, key: str, passed: int) -> None:
        """Let a step run."""
        step = Step(thread, run, key, passed=passed)
        if run.options.timeout is not None:
            step.ends_at = self._clock.monotonic() + run.options.timeout
        if run.options.transaction:
            step.returned = asyncio.get_running_loop().create_future()
            step.is_committed = asyncio.Event()
        step.task = spawn(self._work(step), f"flowstate step {run.name}")
        if step.returned is not None:
            step.task.add_done_callback(note_outcome)  # ``returned`` tells it as well.
        self.running[thread] = step

    async def _work(self, step: Step) -> Any:
        _step.set(step)
        if step.returned is not None:
            return await self._work_in_transaction(step, step.returned)
        return await self._called(step, *step.run.args)

    async def _called(self, step: Step, *args: Any) -> Any:
        call = partial(step.run.call, *args, **step.run.kwargs)
        if is_async(step.run.call):
            return await call()
        if step.run.options.local:
            return call()
        with self._clock.working():
            outcome = self._threads.submit(step.run.name, call)
            try:
                return await asyncio.wrap_future(outcome)
            finally:
                step.told = True
                if outcome.running():
                    self._threads.abandon(step.run.name, outcome)

    async def _work_in_transaction(self, step: Step, returned: "asyncio.Future[Any]") -> None:
        """Call a step with a transaction, which stays open until the turn has joined it."""
        assert step.is_committed is not None  # noqa: S101 - start has made it
        try:
            if self._make_transaction is None:
                raise LookupError("the kernel was given no transactions: see transaction=")
            async with self._make_transaction() as tx:
                value = await self._called(step, tx, *step.run.args)
                step.tx = tx
                returned.set_result(value)
                await step.is_committed.wait()
        except BaseException as error:
            if not returned.done():
                returned.set_exception(error)
                returned.exception()
            raise

    def next_end(self) -> float | None:
        """Return when the next step has taken too long, by the monotonic clock."""
        ends = [step.ends_at for step in self.running.values() if step.ends_at is not None]
        return min(ends, default=None)

    def take_ended(self) -> list[Step]:
        """Return the steps that have returned or raised, or have taken too long; forget them."""
        now = self._clock.monotonic()
        ended = [
            step
            for step in self.running.values()
            if step.done.done() or (step.ends_at is not None and step.ends_at <= now)
        ]
        for step in ended:
            del self.running[step.thread]
        return ended

    async def result(self, step: Step) -> Any:
        """Return what a step has returned; cancel it if it has not.

        Raises:
            Exception: what it raised; ``TimeoutError``: it has taken too long.
        """
        if step.done.done():
            try:
                return step.done.result()
            except asyncio.CancelledError:
                raise RuntimeError("the step has cancelled itself") from None
        await self.end(step)
        seconds = step.run.options.timeout
        raise TimeoutError(f"step {step.run.name!r} took longer than {seconds:g} s")

    async def stop(self, threads: "set[str]") -> None:
        """End what is not wanted any more: cancel coroutines, tell worker threads."""
        steps = [self.running.pop(name) for name in threads if name in self.running]
        if steps:
            await asyncio.gather(*map(self.end, steps))

    async def end(self, step: Step) -> None:
        """End a step, if it has not ended."""
        step.told = True
        step.task.add_done_callback(note_outcome)
        await cancel_and_wait(step.task, seconds=GRACE)

    async def close(self) -> None:
        """End all that runs."""
        await self.stop({*self.running})


def is_async(call: Any) -> bool:
    """Return whether what is called gives a coroutine."""
    while isinstance(call, partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - it is looked at, not called
    )
