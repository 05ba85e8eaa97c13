"""A turn of an instance: its steps run, its threads go on, and each stop is one commit."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
from msgspec import Raw

from flowstate import (
    Command,
    Commit,
    Engine,
    Execute,
    InvalidInputError,
    Noop,
    Put,
    Receive,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.engines.kernel.awaiting import Awaiting
from flowstate.engines.kernel.children import Family
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.control import CONTROL, obey
from flowstate.engines.kernel.ending import TELL, ended, parked, take_delivered
from flowstate.engines.kernel.hints import Hints
from flowstate.engines.kernel.instance import PARKED, Codes, Instance
from flowstate.engines.kernel.operations import Gave, Operation, Run
from flowstate.engines.kernel.outcomes import is_exact
from flowstate.engines.kernel.progress import Progress
from flowstate.engines.kernel.steps import Step, Steps
from flowstate.engines.kernel.telling import mark_of
from flowstate.engines.kernel.threads import Ended
from flowstate.engines.kernel.values import kept

__all__ = ["Turn"]

logger = logging.getLogger("flowstate.engines")

TURNS_OF_LOOP = 2  # For steps that take no time.
MOST_AHEAD = timedelta(seconds=10)
LONGEST = 365_000 * 86_400.0  # Seconds that anything waits; the calendar has an end.


@attrs.define(eq=False)
class Turn:
    """One execution of an instance, from a commit that has made it active to one that ends that.

    Attributes:
        ctx: of the state of the instance.
        engine: executes it.
        codes: what its frames name, and how their steps are run.
    """

    ctx: StateContext
    engine: Engine
    codes: Codes
    _instance: Instance = attrs.field(init=False)
    _progress: Progress = attrs.field(init=False)
    _family: Family = attrs.field(init=False)
    _awaiting: Awaiting = attrs.field(init=False)
    _steps: Steps = attrs.field(init=False)
    _hints: Hints = attrs.field(init=False)
    _first: State = attrs.field(init=False)
    _seen: State | None = attrs.field(init=False, default=None)
    _seen_at: float = attrs.field(init=False, default=0.0)

    async def run(self) -> Command[Any]:
        """Go on with an instance until it waits or has ended, and return what is done then."""
        engine = self.engine
        self._steps = Steps(engine, self.codes.transaction)
        self._hints, self._first = Hints(engine, self.ctx), self.ctx.committed
        try:
            while True:
                command = await self._last_commit()
                if isinstance(command, Noop):
                    return command
                try:
                    await engine.do(command)
                except InvalidInputError as error:  # It has become too large.
                    await engine.do(parked(self.ctx, error))
                except RevisionMismatchError as error:
                    if mark_of(self.ctx.current.id).current.id not in error.ids:
                        raise
                    await engine.do(Commit(Transit(self.ctx, TELL)))  # Others wait for its end.
                if self.ctx.current.status is not Status.ACTIVE:
                    return Noop()
                if self.ctx.current.transition.to == TELL:
                    return Execute(self.ctx)
        except RevisionMismatchError:
            return await self._after_loss()
        finally:
            await self._steps.close()
            await self._hints.close()

    async def _last_commit(self) -> Command[Any]:
        """Go on, and return what lets the instance wait, or ends it."""
        try:
            self._take_up()
            return await self._run()
        except (MisfitError, InvalidInputError) as error:
            await self._steps.close()
            return parked(self.ctx, error)

    def _take_up(self) -> None:
        """Decode the instance, and give it what has made it active."""
        ctx, codes = self.ctx, self.codes
        self._instance = Instance.of(ctx, codes)
        self._progress = Progress(self._instance, self._later, codes.rng, codes.retry)
        self._family = Family(ctx, self.engine, codes, self._instance, self._progress)
        self._awaiting = Awaiting(ctx, self.engine, self._instance, self._progress, self._now)
        self._progress.resume()
        if PARKED in ctx.current.labels:
            ctx.set_label(PARKED, None)
            ctx.remove(PARKED)
            self._instance.is_changed = True
        notes = self._instance.notes
        notes.looks = 0
        if notes.timeout is not None:
            notes.deadline, notes.timeout = self._later(notes.timeout), None
        kept, notes.kept = notes.kept, []
        self._take([*kept, *take_delivered(ctx)])
        self._progress.tick(self._now())

    def _take(self, messages: Sequence[tuple[str, Raw]]) -> None:
        for name, raw in messages:
            if name == CONTROL:
                obey(raw, self.ctx, self._instance, self._progress)
            else:
                self._progress.take(name, raw)

    async def _run(self) -> Command[Any]:
        while True:
            is_all = self._progress.run()
            if self._progress.to_stop:
                await self._steps.stop(self._progress.to_stop)
                self._progress.to_stop.clear()
            if not is_all:  # It is a long way without a stop that takes time: others have a turn.
                await self._commit()
                await asyncio.sleep(0)
            elif await self._family.tend() or await self._awaiting.tend():
                pass  # What has come of it may let threads go on.
            elif self._instance.is_over:
                return ended(self.ctx, self._instance)
            elif (names := self._to_start()) or self._steps.running:
                await (self._take_messages() if self._progress.is_listening else self._work(names))
            elif self._progress.to_start and not self._instance.notes.paused:
                if self._instance.is_changed:
                    await self._commit()
                return Noop()  # This engine stops; another one does the rest.
            else:
                return self._end_turn()

    def _to_start(self) -> list[str]:
        """Return the threads whose steps may begin now."""
        is_held = self._instance.notes.paused or self.ctx.stopping
        return [] if is_held else [*self._progress.to_start]

    def _end_turn(self) -> Command[Any]:
        """Return what lets the instance wait for a message or a time."""
        is_paused = self._instance.notes.paused
        names = [CONTROL] if is_paused else [CONTROL, *self._progress.names()]
        at = None if is_paused else self._progress.next_at()
        self._instance.save(self.ctx)
        flow = self.ctx.current.transition.to
        if at is None:
            return Commit(Receive(self.ctx, *names, to=flow))
        left = max(timedelta(0), at - self._now())
        return Commit(Receive(self.ctx, *names, to=flow, timeout=left, timeout_to=flow))

    async def _work(self, names: Sequence[str]) -> None:
        """Begin steps, as soon as all before is committed; wait until one of those that run ends.

        Args:
            names: of the threads whose steps begin.
        """
        runs = [(name, self._progress.ask(name)) for name in names]
        if self._instance.is_changed and not (runs and all(_is_local(run) for _, run in runs)):
            await self._commit()
        for name, run in runs:
            del self._progress.to_start[name]
            assert isinstance(run, Run)  # noqa: S101 - only such have steps
            thread = self._instance.threads[name]
            self._steps.start(self._instance.id, name, thread, run, self._hints.hint.set)
        ended = await self._some_ended()
        for step in ended:
            await self._take_result(step)
        for step in self._steps.with_progress():
            self._take_progress(step)
        self._progress.tick(self._now())
        if self._hints.has_messages:
            await self._take_messages()

    async def _some_ended(self) -> list[Step]:
        """Return steps that have ended; none, if a time has come or there is a hint before."""
        for _ in range(TURNS_OF_LOOP):
            await asyncio.sleep(0)
            if ended := self._steps.take_ended():
                self._hints.begin_late()
                return ended
        await self._wait()
        return self._steps.take_ended()

    async def _wait(self) -> None:
        """Return when a step has ended, a time has come, or there is a hint."""
        self._hints.begin()
        waiting: list[asyncio.Future[Any]] = [asyncio.create_task(self._hints.hint.wait())]
        if (seconds := self._seconds_left()) is not None:
            waiting.append(asyncio.create_task(self.engine.clock.sleep(seconds)))
        steps = [step.done for step in self._steps.running.values()]
        try:
            await asyncio.wait([*steps, *waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.wait(waiting)
        self._hints.hint.clear()
        if self.ctx.superseded:
            raise RevisionMismatchError([self._instance.id])

    def _seconds_left(self) -> float | None:
        """Return how long nothing is to be done if nothing happens."""
        times = []
        if (end := self._steps.next_end()) is not None:
            times.append(end - self.engine.clock.monotonic())
        if (at := self._progress.next_at()) is not None:
            times.append((at - self._now()).total_seconds())
        return max(0.0, min(times)) if times else None

    async def _take_result(self, step: Step) -> None:
        """Give a thread what its step has come to."""
        thread = self._instance.threads.get(step.thread)
        ended: Ended | Gave | None = None
        failure: Exception = RuntimeError()
        try:
            value = await self._steps.result(step)
            if thread and thread.frames and is_exact(value, step.run.options.gives):
                ended = Gave(value)
            else:
                ended = Ended(kept(f"result of step {step.run.name!r}", value))
        except Exception as error:  # noqa: BLE001 - the policy says what becomes of it
            failure = error
        if thread is None or thread.passed != step.passed:
            return  # It has gone on without it.
        if ended is None:
            self._take_progress(step)
            self._progress.step_failed(step.thread, failure)
        elif step.tx is not None:
            await self._commit_in(step, ended)
        else:
            self._progress.finish(step.thread, ended)

    def _take_progress(self, step: Step) -> None:
        """Note what a step has reported, for the next commit."""
        thread = self._instance.threads.get(step.thread)
        if thread is not None and thread.passed == step.passed:
            thread.progress = step.current.take_progress()
            self._instance.is_changed = True

    async def _commit_in(self, step: Step, ended: Ended | Gave) -> None:
        """Commit the next place together with what a step has done in its transaction."""
        if self._instance.is_changed:
            await self._commit()
        before = self.ctx.current
        self._progress.finish(step.thread, ended)
        self._progress.run()
        self._instance.save(self.ctx)
        try:
            await self.engine.do(Commit(Put(self.ctx)), tx=step.tx)
            assert step.is_committed is not None  # noqa: S101 - it has a transaction
            step.is_committed.set()
            await step.task
        except RevisionMismatchError:
            raise
        except Exception as error:  # noqa: BLE001 - all of it was rolled back
            self.ctx.current = before
            self._take_up()
            for name in (*self._steps.running, step.thread):
                self._progress.to_start.pop(name, None)
            self._progress.step_failed(step.thread, error)
        finally:
            await self._steps.end(step)

    async def _take_messages(self) -> None:
        """Take what has come to the mailbox, one message with each commit."""
        self._hints.has_messages = self._progress.is_listening = False
        while True:
            self._progress.run()
            is_paused = self._instance.notes.paused
            names = [CONTROL] if is_paused else [CONTROL, *self._progress.names()]
            before, to = self.ctx.current.transition, self.ctx.current.transition.to
            await self._commit(Receive(self.ctx, *names, to=to, wait=False))
            if self.ctx.current.transition is before:
                return
            self._take(take_delivered(self.ctx))

    async def _commit(self, *commands: Command[Any]) -> None:
        self._instance.save(self.ctx)
        await self.engine.do(Commit(Put(self.ctx), *commands))

    def _now(self) -> datetime:
        """Return the time of the store, as far as it is known to have come."""
        now, committed = self.engine.clock.monotonic(), self.ctx.committed
        if committed is not self._seen:
            self._seen, self._seen_at = committed, now
        at = committed.committed_at or self.engine.clock.now()
        return at + timedelta(seconds=now - self._seen_at)

    def _later(self, seconds: float) -> datetime:
        """Return the time so many seconds from now.

        Until the turn has committed something, its revision may be older than it looks, for it may
        have waited for its execution. What the clock of the process says then counts a little.
        """
        now = self._now()
        if self.ctx.committed is self._first:
            now = max(now, min(self.engine.clock.now(), now + MOST_AHEAD))
        return now + timedelta(seconds=min(seconds, LONGEST))

    async def _after_loss(self) -> Command[Any]:
        """Go on from what others have made of the state, if they leave that to this execution.

        The process that moves a state on executes it. A change that moves it nowhere, such as an
        edit of its data, does not.
        """
        await self._steps.close()
        known = self.ctx.committed
        try:
            state = await self.engine.get_state(known.id)
        except StateNotFoundError:
            return Noop()
        is_same = state.status is Status.ACTIVE and _is_same(state, known)
        return Execute(StateContext(state)) if is_same else Noop()


def _is_local(operation: Operation) -> bool:
    return isinstance(operation, Run) and operation.options.local


def _is_same(state: Any, known: Any) -> bool:
    """Return whether a state is in the same step as an older revision of it."""
    one, other = StateContext(state), StateContext(known)
    return one.effect_key == other.effect_key and (
        state.transition.cause,
        state.transition.annotations,
    ) == (known.transition.cause, known.transition.annotations)
