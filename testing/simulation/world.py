# ruff: noqa: S311 - chance is no secret here
"""A world in which everything that happens follows from one number."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import Context
from datetime import timedelta
from random import Random
from typing import Any

from flowstate.context import StateContext
from flowstate.driver import DelayedState
from flowstate.recovery.policy import attempt
from flowstate.state import Status
from flowstate.testing.simulation import clients, invariants, message_rules, policy_rules, updates
from flowstate.testing.simulation.clients import CALM_FROM, Clients
from flowstate.testing.simulation.driver import REPLY_TIMEOUT
from flowstate.testing.simulation.loop import DeadlockError, SimulatedTask, SimulationLoop
from flowstate.testing.simulation.nemesis import Fault, draw_faults, strike
from flowstate.testing.simulation.plans import Plan, goes_on_in, new_context
from flowstate.testing.simulation.process import (
    CLAIMED_FOR,
    Run,
    SimulatedClock,
    SimulatedProcess,
    Watched,
)
from flowstate.testing.simulation.store import SimulatedStore
from flowstate.testing.simulation.workload import draw_plans

__all__ = ["World"]

CREATED_WITHIN = 4.0
WITH_DUTY = 0.4  # A part of the worlds.
WITH_CLOCK_AHEAD = 0.2
AHEAD = timedelta(hours=1)
GRACE = 0.3  # Seconds in which a process that was paused finds out what it has lost.
LIMIT = 90.0  # Virtual seconds after which all must be quiet.
LOOK_EVERY = 0.25
WAYS = ("executed", "executed in the background", "started", "started elsewhere")
FILTERS: tuple[dict[str, str], ...] = ({}, {"kind": "even"}, {"kind": "odd"})


class World:
    """Some processes, one store, a workload, and faults.

    Args:
        seed: of everything.

    Attributes:
        rng: where all chance comes from.
        store: with the record of what happened.
        processes: those that run, or were the last of their kind.
        runs: of flows.
        plans: of the workload.
        violations: what must not have happened.
        clients: those who send messages, update and wait.
        is_over: whether the end has come, so that nothing more is to begin.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.loop = SimulationLoop(rng)
        self.store = SimulatedStore(self.loop, rng, SimulatedClock(self.loop))
        self.store.on_commit = self._judge_leaders
        self.violations: list[str] = []
        self.runs: list[Run] = []
        self.plans: list[Plan] = draw_plans(rng, rng.randint(4, 7), CREATED_WITHIN)
        self.faults: list[Fault] = draw_faults(rng, rng.randint(2, 8), CALM_FROM)
        count = rng.randint(2, 3)
        self.watched = [Watched(f"watch-{place}", rng.choice(FILTERS)) for place in range(count)]
        self.processes: list[SimulatedProcess] = []
        self._count = count
        self._has_duty = rng.random() < WITH_DUTY
        self._incarnations = [0] * count
        self._everybody: list[SimulatedProcess] = []
        self._is_calm = False
        self.is_over = False
        self.clients = Clients(self)

    def run(self) -> None:
        """Let everything happen, and check it."""
        state = random.getstate()
        random.seed(self.seed)  # Pauses between attempts come from there.
        task, asyncio.Task = asyncio.Task, SimulatedTask  # type: ignore[misc]
        self.loop.set_exception_handler(self._unhandled)
        try:
            try:
                self.loop.run_until_complete(self._live())
            except DeadlockError as error:
                self.violations.append(f"deadlock: {error}")
            else:
                self.violations += invariants.check(self)
            self.loop.set_exception_handler(lambda *_: None)
            self.loop.run_until_complete(self._bury())
        finally:
            asyncio.Task = task  # type: ignore[misc]
            self.loop.close()
            random.setstate(state)

    async def _live(self) -> None:
        if self.rng.random() < WITH_CLOCK_AHEAD:
            self.store.was_ahead(AHEAD)
        for place in range(self._count):
            self._start(place)
        for plan in self.plans:
            self.after(plan.at, lambda plan=plan: self._create(plan))  # type: ignore[misc]
        for fault in self.faults:
            self.after(fault.at, lambda fault=fault: strike(self, fault))  # type: ignore[misc]
        self.clients.begin()
        await asyncio.sleep(CALM_FROM)
        self._calm_down()
        while not self._is_quiet():
            if self.loop.time() > LIMIT:
                self.violations.append(f"not quiet after {LIMIT} s: {self._unquiet()}")
                break
            await asyncio.sleep(LOOK_EVERY)
        await self._stop()

    async def _stop(self) -> None:
        self.is_over = True
        for process in self.processes:
            process.stop()
        tasks = [process.main for process in self.processes if process.is_alive]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=30.0)
            self.violations += [f"{task.get_name()} does not stop" for task in pending]

    async def _bury(self) -> None:
        """Let the tasks of dead processes come to an end, so that nothing warns of them."""
        tasks = []
        self.is_over = True
        for process in self._everybody:
            process.driver.is_dead = True
            process.driver.leave()
            self.loop.exhume(process.group)
            tasks += process.group.tasks
        for _ in range(50):
            left = [task for task in tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0.1)
        left = [task for task in tasks if not task.done()]
        await asyncio.gather(*left, return_exceptions=True)
        for process in self._everybody:
            process.group.tasks.clear()

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.violations.append(f"unhandled: {context['message']}: {context.get('exception')!r}")

    # What happens to processes

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something later, in no process."""
        self.loop.call_later(seconds, do, context=Context())

    def _start(self, place: int) -> None:
        self._incarnations[place] += 1
        process = SimulatedProcess(
            f"p{place}.{self._incarnations[place]}",
            self.store,
            self.watched[place],
            self._begin,
            has_duty=self._has_duty,
        )
        self.processes[place : place + 1] = [process]
        self._everybody.append(process)
        self.store.note(f"start {process}")

    def restart(self, process: SimulatedProcess) -> None:
        """Start a process again, unless that was done or the end has come."""
        if process in self.processes and not process.is_alive and not self.is_over:
            self._start(self.processes.index(process))

    def crash(self, process: SimulatedProcess) -> None:
        """Kill a process."""
        self.loop.kill(process.group)
        process.driver.leave()
        for run in self._open_runs(process):
            run.ended, run.how = self.loop.time(), "crashed"

    def pause(self, process: SimulatedProcess) -> None:
        """Let a process stand still."""
        self.loop.pause(process.group)

    def resume(self, process: SimulatedProcess) -> None:
        """Let a process go on, unless it does."""
        if process.group.is_paused and not process.group.is_dead:
            self.store.note(f"resume {process}")
            process.resumed_at = self.loop.time()
            self.loop.resume(process.group)
            self.after(GRACE, lambda: self._look_for_overlaps(process))

    def _calm_down(self) -> None:
        self._is_calm = True
        self.store.note("calm")
        for process in list(self.processes):
            process.link.cut, process.link.loss = None, 0.0
            self.resume(process)
            self.restart(process)

    # The workload

    def usable(self) -> list[SimulatedProcess]:
        """Return the processes that clients can ask."""
        return [each for each in self.processes if each.is_alive and each.is_started]

    def _create(self, plan: Plan) -> None:
        """Let some process create a state, another one if that comes to nothing, and again."""
        if self.is_over or self.store.lives[plan.id] >= plan.lives:
            return
        usable = self.usable()
        if usable and plan.id not in self.store.there:
            process = self.rng.choice(usable)
            ctx = new_context(plan)
            way = self.rng.choice(WAYS)
            self.store.counts[way] += 1
            work = process.create(ctx, plan.steps[0], way)
            process.serve(work, plan.id)
        self.after(2.5, lambda: self._create(plan))

    def poke(self, process: SimulatedProcess) -> None:
        """Move a state on before its delay or its timer fires."""
        # The holder of a delay without a commit may be executing it.
        delayed = [each for each in self.store.delays() if each.commit and _is_waiting(each)]
        if delayed:
            chosen = self.rng.choice(delayed)
            self.store.counts["poked timers" if chosen.timer else "poked delays"] += 1
            state = chosen.state
            work = process.poke(StateContext(state), goes_on_in(state))
            process.serve(work, f"poke {state.id}")

    # Runs

    def _open_runs(self, process: SimulatedProcess) -> list[Run]:
        return [run for run in self.runs if run.process is process and run.ended is None]

    def _begin(self, run: Run) -> None:
        self.store.note(f"{run.process} runs {run.flow} of {run.id}@{run.rev}")
        for other in self.runs:
            if other.id == run.id and other.ended is None:
                self._judge_overlap(run, other)
        self.runs.append(run)
        self.clients.see(run.flow, run.id)
        latest = self.store.latest[run.id]
        is_late = latest.rev != run.rev and not self._is_excused(run.process)
        if is_late and not (self._was_overtaken(run) or self._is_moved_by_others(run)):
            self.violations.append(f"{run.process} begins {run.id}@{run.rev} after {latest.rev}")

    def _was_overtaken(self, run: Run) -> bool:
        """Return whether a claim came with a commit whose outcome no caller waits for any more.

        Its sender gave it up, has been cancelled since, or was asleep until its own claim was
        over. A claim writes no revision, so it cannot keep such a commit from happening.
        """
        if not run.is_held:
            return False
        if self.loop.time() < self.store.jumped_at + CLAIMED_FOR:
            return True  # The claim of another holder ended early, by the store's clock.
        after = self._successor(run)
        if after is None:
            return False
        state, author = self.store.log[after], self.store.authors[after]
        sleepers = {each.name for each in self.processes if self._is_excused(each)}
        sent_at = self.store.sent_at(state)
        cancelled = {
            each.process.name
            for each in self.runs
            if (each.id, each.rev) == (run.id, run.rev) and each.was_cancelled_since(sent_at)
        }
        is_late = author in sleepers | cancelled or self.store.is_unknown(state)
        return is_late and self.store.age(state) <= REPLY_TIMEOUT

    def _is_moved_by_others(self, run: Run) -> bool:
        """Return whether a timer or an update came to a state, which may happen at any time."""
        after, log = self._successor(run), self.store.log
        if after is None:
            return False
        is_timer = log[after].transition.cause == "timer"
        return is_timer or updates.is_updated(log[run.rev - 1], log[after])

    def _successor(self, run: Run) -> int | None:
        """Return where in the log the revision is that made the one of a run outdated."""
        log = self.store.log
        return next((place for place in range(run.rev, len(log)) if log[place].id == run.id), None)

    def _look_for_overlaps(self, process: SimulatedProcess) -> None:
        for run in self._open_runs(process):
            for other in self.runs:
                if other.id == run.id and other.ended is None and other is not run:
                    self._judge_overlap(run, other)

    def _judge_overlap(self, run: Run, other: Run) -> None:
        runs = (run, other)
        if any(each.is_held for each in runs) and run.rev != other.rev:
            return  # Who was paused while it held a delay may have moved the state on since.
        has_jumped = self.loop.time() < self.store.jumped_at + CLAIMED_FOR
        if has_jumped and all(each.is_held for each in runs):
            return  # A claim ends by the store's clock, and its holder finds out when it renews.
        if any(each.ctx.superseded or self._is_moved_by_others(each) for each in runs):
            return  # It knows, or it will with its next heartbeat.
        if not any(self._is_excused(each.process) or self._only_waits(each) for each in runs):
            self.violations.append(
                f"{run.id} is run by {run.process} (@{run.rev} since {run.began:.3f}) and by "
                f"{other.process} (@{other.rev} since {other.began:.3f}) at {self.loop.time():.3f}"
            )

    def _is_excused(self, process: SimulatedProcess) -> bool:
        """Return whether a process could not yet find out that it has lost something."""
        group = process.group
        return group.is_paused or group.is_dead or self.loop.time() < process.resumed_at + GRACE

    def _only_waits(self, run: Run) -> bool:
        """Return whether a run only waits for the verdict on a commit that has long happened.

        It is stopped already, or will be as soon as it has the verdict.
        """
        if run.task is not None and run.task.cancelling():
            return True
        successor = self._successor(run)
        return successor is not None and self.store.authors[successor] == run.process.name

    def _judge_leaders(self) -> None:
        """See that no two processes take themselves for the holder of one lease."""
        awake = [each for each in self.processes if not self._is_excused(each)]
        for holders in (
            [each for each in awake if each.is_leading],
            [each for each in awake if each.is_on_duty],
        ):
            if len(holders) > 1:
                self.violations.append(f"{holders} hold one lease at {self.loop.time():.3f}")

    # The end

    def tally(self) -> Counter[str]:
        """Return how often what was seen in the log and in the runs."""
        counts = Counter(f"runs {run.how}" for run in self.runs)
        counts["runs of held delays"] = sum(run.is_held for run in self.runs)
        for state in self.store.log:
            counts["takeovers"] += state.id == invariants.RECOVERY_LEASE and state.rev > 1
            counts["retried attempts"] += attempt(state) > 0
            counts["second attempts"] += attempt(state) > 1
            counts["dead"] += invariants.is_dropped(state)
            counts["delays fired"] += state.transition.cause == "delay" and not attempt(state)
            counts["timers fired"] += invariants.is_firing(state)
            counts["forgotten"] += state.transition.cause == "forget"
        counts["begun again"] = sum(self.store.lives[plan.id] > 1 for plan in self.plans)
        counts["superseded runs"] = sum(run.ctx.superseded for run in self.runs)
        for part in (policy_rules, message_rules, updates, clients):
            counts.update(part.tally_of(self))
        return counts

    def _is_quiet(self) -> bool:
        return not self._unquiet()

    def _unquiet(self) -> str:
        """Return what is still to come."""
        return next(self._outstanding(), "")

    def _outstanding(self) -> Iterator[str]:
        store, latest = self.store, self.store.latest
        for plan in self.plans:
            if plan.id not in latest:
                yield f"{plan.id} was never created"
            elif latest[plan.id].status is not Status.ENDED:
                yield f"{latest[plan.id]!r} has not ended"
            # A state that was ended by force is not forgotten, so it does not begin again.
            elif plan.id not in store.there and store.lives[plan.id] < plan.lives:
                yield f"{plan.id} has not begun again"
        yield from (f"{run!r} goes on" for run in self.runs if run.ended is None)
        for watched in self.watched:
            wanted = invariants.wanted(store.log, watched)
            if wanted and watched.cursor < wanted[-1]:
                yield f"a watcher is at {watched.cursor} of {wanted[-1]}"
        yield from (f"{each!r} is left" for each in store.delays())
        yield from self.clients.outstanding()


def _is_waiting(each: DelayedState) -> bool:
    """Return whether no flow runs, so that others may move the state on."""
    return not each.timer or each.state.status is Status.PAUSED
