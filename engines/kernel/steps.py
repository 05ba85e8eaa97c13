"""Runs steps: coroutines as tasks, plain functions in worker threads, both with a time limit."""

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import FunctionType
from typing import Any

import attrs

from flowstate import Engine
from flowstate.engines.kernel.current_step import CurrentStep, current_step, running_here
from flowstate.engines.kernel.errors import text_of
from flowstate.engines.kernel.operations import Run
from flowstate.engines.kernel.threads import Thread

__all__ = ["MakeTransaction", "Step", "Steps", "effect_key", "is_async"]

GRACE = 5.0  # Seconds for a step to end that was cancelled.
IN_THREAD = (Exception, asyncio.CancelledError, GeneratorExit)  # All else is a failure of the step.
PASSED = (*IN_THREAD, KeyboardInterrupt, SystemExit)  # They may come from a handler of a signal.

MakeTransaction = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a transaction of the store, such as one of Postgres; see ``docs/postgres.md``."""


@attrs.define(eq=False)
class Step:
    """A step that runs.

    Attributes:
        thread: the name of the thread whose step it is.
        run: what it does.
        passed: how many stops its thread had passed.
        current: what it knows of itself.
        ends_at: when its attempt has taken too long, by the monotonic clock.
        task: gives what the step returns, or raises what it raises.
        tx: the open transaction, when the step has returned.
        is_committed: set when the transaction may end.
    """

    thread: str
    run: Run
    passed: int
    current: CurrentStep
    ends_at: float | None = None
    task: "asyncio.Task[Any]" = attrs.field(init=False)
    returned: "asyncio.Future[Any] | None" = None
    tx: Any = None
    is_committed: asyncio.Event | None = None

    @property
    def done(self) -> "asyncio.Future[Any]":
        """What is done as soon as the step has returned."""
        return self.task if self.returned is None else self.returned

    @property
    def times_out_at(self) -> float | None:
        """When it counts as failed unless it ends or gives a heartbeat, by the monotonic clock."""
        silence = self.run.options.heartbeat_timeout
        if silence is None:
            return self.ends_at
        silent_at = self.current.silent_at(silence)
        return silent_at if self.ends_at is None else min(silent_at, self.ends_at)


def effect_key() -> str:
    """Return the key of the step that runs: the same over attempts, crashes and edits.

    Raises:
        LookupError: no step runs here.
    """
    return current_step().key


class Steps:
    """The steps that run in one turn, by the names of their threads."""

    def __init__(self, engine: Engine, make_transaction: MakeTransaction | None) -> None:
        self._engine = engine
        self._make_transaction = make_transaction
        self.running: dict[str, Step] = {}

    def start(self, id: str, name: str, thread: Thread, run: Run, wake: Callable[[], None]) -> None:
        """Let a step run.

        Args:
            id: of the instance.
            name: of the thread.
            thread: stands at the step.
            run: what it does.
            wake: is called when there is progress to store.
        """
        key, engine = f"{id}/{name}/{run.name}/{thread.passed}", self._engine
        current = CurrentStep(key, id, name, engine, thread.failures + 1, thread.progress, wake)
        step = self.running[name] = Step(name, run, thread.passed, current)
        if run.options.timeout is not None:
            step.ends_at = engine.clock.monotonic() + run.options.timeout
        if run.options.transaction:
            step.returned = asyncio.get_running_loop().create_future()
            step.is_committed = asyncio.Event()
        step.task = asyncio.create_task(self._work(step), name=f"flowstate step {run.name}")
        if step.returned is not None:
            step.task.add_done_callback(_note_outcome)  # ``returned`` tells it as well.

    async def _work(self, step: Step) -> Any:
        running_here.set(step.current)
        if step.returned is not None:
            return await self._work_in_transaction(step, step.returned)
        return await self._called(step, *step.run.args)

    async def _called(self, step: Step, *args: Any) -> Any:
        call = partial(step.run.call, *args, **step.run.kwargs)
        to_pass: tuple[type[BaseException], ...] = PASSED
        try:
            if is_async(step.run.call):
                return await call()
            if step.run.options.local:
                return call()
            to_pass = IN_THREAD
            return await self._engine.call_in_thread(step.run.name, call)
        except to_pass:
            raise
        except BaseException as error:
            raise RuntimeError(f"the step has raised {text_of(error)}") from error
        finally:
            if to_pass is IN_THREAD:
                step.current.is_told = True

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
        """Return when a step has taken too long, or has progress to store, by that clock."""
        times = [(step.times_out_at, step.current.store_at()) for step in self.running.values()]
        return min((at for pair in times for at in pair if at is not None), default=None)

    def with_progress(self) -> list[Step]:
        """Return the steps whose progress is to be stored now."""
        if not self.running:
            return []
        now = self._engine.clock.monotonic()
        return [
            step
            for step in self.running.values()
            if (at := step.current.store_at()) is not None and at <= now
        ]

    def take_ended(self) -> list[Step]:
        """Return the steps that have returned or raised, or have taken too long; forget them."""
        now = self._engine.clock.monotonic()
        ended = [
            step
            for step in self.running.values()
            if step.done.done() or ((at := step.times_out_at) is not None and at <= now)
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
        text, seconds = "took longer than", step.run.options.timeout
        if step.times_out_at != step.ends_at:
            text, seconds = "has given no heartbeat for", step.run.options.heartbeat_timeout
        raise TimeoutError(f"step {step.run.name!r} {text} {seconds:g} s")

    async def stop(self, threads: Iterable[str]) -> None:
        """End what is not wanted any more."""
        await self.end(*[self.running.pop(name) for name in threads if name in self.running])

    async def end(self, *steps: Step) -> None:
        """End steps that have not ended: cancel coroutines, tell worker threads."""
        for step in steps:
            step.current.is_told = True
            step.task.cancel()
            step.task.add_done_callback(_note_outcome)
        if steps:
            await asyncio.wait([step.task for step in steps], timeout=GRACE)

    async def close(self) -> None:
        """End all that runs."""
        await self.stop([*self.running])


def _note_outcome(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()  # Else asyncio logs that nothing asked for it.


def is_async(call: Any) -> bool:
    """Return whether what is called gives a coroutine."""
    while isinstance(call, partial):
        call = call.func
    if type(call) is FunctionType and call.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # As mostly, and soon told.
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - it is looked at, not called
    )
