# ruff: noqa: S311 - chance is no secret here
"""One simulated process: an engine with all that belongs to it, on a clock of its own."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from msgspec import Struct

from flowstate.commands import Commit, Execute, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import (
    CompactedError,
    DamagedRevisionError,
    FlowstateError,
    LeaseLostError,
)
from flowstate.recovery import Lease, Recoverer
from flowstate.recovery.policy import attempt
from flowstate.testing.simulation.driver import SimulatedDriver
from flowstate.testing.simulation.loop import Group, SimulatedTask, SimulationLoop
from flowstate.testing.simulation.plans import AT
from flowstate.testing.simulation.store import Link, SimulatedStore
from flowstate.testing.simulation.workload import incremented, make_flows, untimed

__all__ = ["CLAIMED_FOR", "DUTY", "Run", "SimulatedClock", "SimulatedProcess", "Watched"]

DUTY = "counter-duty-"
CLAIMED_FOR = 1.5  # Seconds.
SLOW_WATCHER = 0.1  # How often one takes its time.
START = datetime(2030, 1, 1, tzinfo=UTC)


class SimulatedClock:
    """The clock of one machine: its wall clock may be wrong, and is set now and then.

    Args:
        loop: knows the time.
        offset: seconds by which its monotonic clock differs from others'.
    """

    def __init__(self, loop: SimulationLoop, offset: float = 0.0) -> None:
        self.error = timedelta(0)
        self._loop = loop
        self._offset = offset

    def now(self) -> datetime:
        """Return what this machine takes for the time of day."""
        return START + timedelta(seconds=self._loop.time()) + self.error

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._loop.time() + self._offset

    def sleep(
        self,
        seconds: float,
        *,
        background: bool = False,  # noqa: ARG002
    ) -> Coroutine[Any, Any, None]:
        """Wait so many virtual seconds."""
        return asyncio.sleep(seconds)

    def working(self) -> AbstractContextManager[None]:
        """Do nothing: there are no threads."""
        return nullcontext()


class Run(Struct, eq=False):
    """One run of a flow.

    Attributes:
        process: that ran it.
        id: of the state.
        rev: of the state, as it was committed last.
        flow: that ran.
        attempt: which one it was.
        is_held: whether it goes on after a delay that was not committed.
        began: when.
        ctx: that the flow was given.
        task: in which.
        key: of its effects.
        at: which step of its plan the state is in.
        ended: when; ``None`` while it goes on.
        how: it ended: ``"returned"``, ``"raised"``, ``"stopped"`` or ``"crashed"``.
    """

    process: "SimulatedProcess"
    id: str
    rev: int
    flow: str
    attempt: int
    is_held: bool
    began: float
    ctx: StateContext
    task: "asyncio.Task[Any] | None"
    key: str
    at: str
    ended: float | None = None
    how: str = ""

    def was_cancelled_since(self, moment: float) -> bool:
        """Return whether its task was cancelled at that moment or later, and not before."""
        task = self.task
        if not isinstance(task, SimulatedTask) or task.cancelled_at is None:
            return False
        return task.cancelled_at >= moment


class Watched:
    """What one user has watched, in whichever process it ran.

    Args:
        name: of the user.
        labels: the filter.

    Attributes:
        name: of the watch, which is another one after each gap.
        labels: the filter.
        revs: what was delivered.
        cursor: where to go on.
        gaps: what was compacted away or damaged unseen: above the first, up to the second
            revision.
    """

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name = name
        self.labels = labels
        self.revs: list[int] = []
        self.cursor = 0
        self.gaps: list[tuple[int, int]] = []

    def skip_to(self, rev: int) -> None:
        """Go on above a revision, because what is left below was compacted."""
        self.gaps.append((self.cursor, rev))
        self.cursor = rev
        self.name += f" above {rev}"

    def skip_damaged(self, rev: int) -> None:
        """Go on above a revision that cannot be read."""
        self.gaps.append((rev - 1, rev))
        self.cursor = max(self.cursor, rev)


class SimulatedProcess:
    """An engine, a delayer, a recoverer, a watcher, and a duty that needs a lease.

    Args:
        name: differs from those of all others, before and after.
        store: that all share.
        watched: who watches here.
        begin: told of every run.

    Attributes:
        group: of its tasks.
        link: to the store.
        clock: of its machine.
        driver: its own.
        resumed_at: when it was last paused no more.
        is_started: whether the engine is open.
        main: its first task.
    """

    def __init__(
        self,
        name: str,
        store: SimulatedStore,
        watched: Watched,
        begin: Callable[[Run], None],
        *,
        has_duty: bool,
    ) -> None:
        self.name = name
        self.group = Group()
        self.link = Link()
        self.resumed_at = -1.0
        self.is_started = False
        self._store = store
        self._loop = store.loop
        self._rng = rng = store.rng
        self._watched = watched
        self._begin = begin
        self._has_duty = has_duty
        self.clock = SimulatedClock(self._loop, rng.uniform(0.0, 1000.0))
        self.driver = SimulatedDriver(store, self.link, name, rng.uniform(0.3, 4.0))
        tokens = map(f"{name}-".__add__, map(str, range(1_000_000)))
        self.engine = Engine(
            self.driver,
            make_flows(rng, self._running),
            clock=self.clock,
            max_executions=rng.choice((1, 2, 10)),
            shutdown_timeout=0.5,
            tokens=lambda: next(tokens),
            name=name,
            rng=Random(name),
            warn_blocked_after=None,  # The watchdog's thread looks at the real time.
        )
        self._chances = [Random(rng.random()) for _ in range(3)]
        self._recoverer: Recoverer | None = None
        self._lease: Lease | None = None
        self._stop = asyncio.Event()
        self._clients: list[asyncio.Task[Any]] = []
        self.main = self.start(self._live(), "main")

    def __repr__(self) -> str:
        return self.name

    @property
    def is_alive(self) -> bool:
        """Whether it was not killed and has not stopped."""
        return not self.group.is_dead and not self.main.done()

    @property
    def is_leading(self) -> bool:
        """Whether it recovers just now."""
        return self._recoverer is not None and self._recoverer.is_leading

    @property
    def is_on_duty(self) -> bool:
        """Whether it holds the lease of the duty."""
        return self._lease is not None and self._lease.is_held

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Let it do something more."""
        return self._loop.create_task(work, name=name, context=self.group.context.copy())

    def serve(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Let it do something for a client, who is waited for when it stops."""
        self._clients.append(self.start(work, f"client {name}"))

    def stop(self) -> None:
        """Stop in good order."""
        self._stop.set()

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            engine = await stack.enter_async_context(self.engine)
            delaying, recovering, on_duty = self._chances
            delayer = Delayer(engine, batch=4, poll_interval=0.5, lease=CLAIMED_FOR, rng=delaying)
            await stack.enter_async_context(delayer)
            self._recoverer = Recoverer(engine, lease=2.0, poll_interval=0.8, rng=recovering)
            await stack.enter_async_context(self._recoverer)
            tasks = [self.start(self._watch_on(), "watcher")]
            if self._has_duty:
                lease = Lease(engine, "duty", seconds=1.5, poll_interval=0.8, rng=on_duty)
                self._lease = await stack.enter_async_context(lease)
                tasks.append(self.start(self._do_duty(lease), "duty"))
            self.is_started = True
            try:
                await self._stop.wait()
            finally:
                self.is_started = False
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if self._clients:
            await asyncio.wait(self._clients)

    # Users

    async def create(self, ctx: StateContext, to: str, way: str) -> None:
        """Commit a state, and see in one of four ways that it is executed."""
        with contextlib.suppress(FlowstateError):
            if way in {"started", "started elsewhere"}:
                await self.engine.start(ctx, to, elsewhere=way == "started elsewhere")
                return
            await self.engine.do(Commit(Transit(ctx, to)))
            if way == "executed in the background":
                await self.engine.do(Execute(ctx))
            else:
                with contextlib.suppress(Exception):  # What a flow raises is for recovery.
                    await self.engine.execute(ctx)

    async def poke(self, ctx: StateContext, to: str) -> None:
        """Move a state on that waits for a delay or a timer, and execute it."""
        with contextlib.suppress(FlowstateError):
            await self.engine.do(Commit(*untimed(ctx), Transit(ctx, to)))
            await self.engine.do(Execute(ctx))

    async def compact(self, below: int) -> None:
        """Compact the store."""
        with contextlib.suppress(FlowstateError):
            await self.engine.compact(below)

    async def _watch_on(self) -> None:
        """Watch without end, whatever goes wrong."""
        while True:
            watching = asyncio.create_task(self._watch(), name="watch now")
            try:
                await asyncio.wait([watching])
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            self._store.counts["reconnected watchers"] += 1
            await self.clock.sleep(self._rng.uniform(0.0, 0.5))

    async def _watch(self) -> None:
        watched = self._watched
        watch = self.engine.watch(labels=watched.labels, since_rev=watched.cursor)
        recording = self._store.recording
        session = recording.begun(watched.name, watched.labels, watched.cursor)
        try:
            async with watch as states:
                async for state in states:
                    recording.delivered(session, state.rev, state.id)
                    watched.revs.append(state.rev)
                    watched.cursor = watch.cursor
                    if self._rng.random() < SLOW_WATCHER:
                        await self.clock.sleep(self._rng.uniform(0.0, 0.5))
        except CompactedError as error:
            self._store.counts["compacted watchers"] += 1
            watched.cursor = watch.cursor
            watched.skip_to(error.floor - 1)
        except DamagedRevisionError as error:
            self._store.counts["watchers that met damage"] += 1
            recording.delivered(session, error.rev, error.id)
            watched.cursor = watch.cursor
            watched.skip_damaged(error.rev)
        except FlowstateError:
            watched.cursor = watch.cursor
        finally:
            recording.ended(session, watch.cursor)
            watched.cursor = max(watched.cursor, watch.cursor)

    async def _do_duty(self, lease: Lease) -> None:
        """Write something that only the holder of a lease may write."""
        while True:
            try:
                await lease.wait_held()
                fence = lease.check()  # It must hold for whatever happens until the commit.
                counter = await incremented(self.engine, DUTY + self.name, self.name)
                await self.clock.sleep(self._rng.uniform(0.1, 0.6))
                await self.engine.do(Commit(fence, Pause(counter)))
            except LeaseLostError:
                pass
            except FlowstateError:
                await self.clock.sleep(self._rng.uniform(0.1, 0.3))
            await self.clock.sleep(self._rng.uniform(0.1, 0.5))

    # Flows

    @contextlib.contextmanager
    def _running(self, ctx: StateContext) -> Iterator[None]:
        state = ctx.current
        run = Run(
            process=self,
            id=state.id,
            rev=ctx.committed.rev,
            flow=state.transition.to,
            attempt=attempt(state),
            is_held=not ctx.committed.transition.to,  # Only its revision is known then.
            began=self._loop.time(),
            ctx=ctx,
            task=asyncio.current_task(),
            key=ctx.effect_key,
            at=state.annotations[AT],
        )
        self._begin(run)
        how = "returned"
        try:
            yield
        except Exception:
            how = "raised"
            raise
        except BaseException:
            how = "stopped"
            raise
        finally:
            if run.ended is None:  # Else it has crashed, and is only buried now.
                run.ended, run.how = self._loop.time(), how
                self._store.note(f"{self.name} {run.how} {run.flow} of {run.id}@{run.rev}")
