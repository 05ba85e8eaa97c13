"""Finds what a crash breaks: flows run again and again, and their process dies everywhere once.

A flow that works says little about what happens when its process dies in the middle of it: was the
card charged or not? Here the flows run on the memory driver, in virtual time, with a process that
dies at each point at which something is written to the store, before it or after it, and then
another process recovers. The result must be that of a run in which no process dies.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from flowstate.engine import Engine
from flowstate.registry import FlowRegistry
from flowstate.testing.crashes.outcome import Outcome
from flowstate.testing.crashes.process import Fault
from flowstate.testing.crashes.report import Broken, Exploration, Judge, report
from flowstate.testing.crashes.settling import Until
from flowstate.testing.crashes.stage import Stage

__all__ = ["Exploration", "explore_crashes"]

W = TypeVar("W")
Faults = dict[int, Fault]

LONGEST = timedelta(days=30)


def explore_crashes(
    make_world: Callable[[], W],
    make_flows: Callable[[W], FlowRegistry],
    run: Callable[[Engine, W], Awaitable[object]],
    *,
    outside: Callable[[W], object] = lambda _: None,
    invariants: Sequence[Callable[[Outcome[W]], object]] = (),
    ignore: Collection[str] = (),
    until: Until | None = None,
    crashes: int = 1,
    max_runs: int = 1_000,
    longest: timedelta = LONGEST,
    seed: int = 0,
) -> Exploration:
    """Let the process die before and after everything it writes, and compare what comes out.

    Each run has a new world, a new memory driver and clocks of its own. ``run`` gives the engine
    work; flows, forks, background executions and delays go on until nothing is left to do. When
    the process dies, it does nothing any more, not even ``finally``. A new process with a new
    engine and new flows recovers from the store. If ``run`` had not returned, it is called again
    there, as a client repeats a request that got no answer; a ``RevisionMismatchError``, which
    says that the request had got through, ends it then. Ids of states must not depend on chance.

    The end must be that of the run in which no process dies: states by id, with flow, status,
    labels, annotations, values and timers, their data, and what is ``outside``; and no state is
    ended by force. The values of the library's own states are left aside: they have revisions.

    Call it from a plain function, since it runs event loops of its own. Flows in threads
    (``blocking=True``) run to their end in a process that dies meanwhile.

    Args:
        make_world: makes what survives a crash, apart from the store: fakes of other services.
        make_flows: makes the flows of a process.
        run: what is tried.
        outside: what of the world must be as in the undisturbed run; it is copied.
        invariants: raise ``AssertionError`` when an outcome is wrong.
        ignore: keys of labels and annotations, and names of values, that may differ, such as a
            time of day.
        until: says of the latest states, by id, whether a run is over, for flows that go on
            without end. By default it is when nothing executes, is delayed or is to be recovered.
        crashes: with 2, what recovers dies as well, everywhere; and so on.
        max_runs: at most; beyond that chance decides which. Those with one crash, with two, and so
            on have an equal share; what one of them does not need is left to the next.
        longest: how long a run may take in virtual time.
        seed: of all chance, also of that in the module ``random``.

    Raises:
        AssertionError: something comes out that should not, with or without a crash.
    """
    _refuse_running_loop()
    stage = Stage(
        make_world=make_world,
        make_flows=make_flows,
        run=run,
        outside=outside,
        invariants=invariants,
        until=until,
        longest=longest,
        seed=seed,
    )
    chance, began = random.getstate(), time.perf_counter()
    try:
        search = Search(stage, ignore, max_runs, seed)
        for left in range(crashes, 0, -1):
            search.go_deeper(left)
    finally:
        random.setstate(chance)
    explored = search.explored(time.perf_counter() - began)
    if search.broken:
        raise AssertionError(report(search.broken, explored))
    return explored


class Search(Generic[W]):
    """Runs in which more and more goes wrong, beside the one in which nothing does.

    Args:
        stage: plays them.
        ignore: see :func:`explore_crashes`.
        max_runs: as there.
        seed: of the choice among too many runs.

    Attributes:
        broken: runs that did not end as they should have.

    Raises:
        AssertionError: the undisturbed run is wrong already.
    """

    def __init__(self, stage: Stage[W], ignore: Collection[str], max_runs: int, seed: int) -> None:
        self._stage = stage
        self._base = stage.play({})
        self._judge = Judge(self._base, ignore)
        self._ends: list[tuple[Faults, int]] = [({}, len(self._base.points))]
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._room = max_runs
        self._runs = self._left_out = self._diverged = 0
        self.broken: list[Broken[W]] = []

    def go_deeper(self, left: int) -> None:
        """Let one more thing go wrong in each of the last runs, everywhere after the others.

        Args:
            left: how often that is still to be done; each time has its share of the runs.
        """
        scripts = [*_with_one_more(self._ends)]
        chosen = _sample(scripts, (self._room - self._runs) // left, self._rng)
        self._left_out += len(scripts) - len(chosen)
        self._ends = [(faults, self._play(faults)) for faults in chosen]

    def _play(self, faults: Faults) -> int:
        """Play a run and judge it; return its number of points."""
        played = self._stage.play(faults)
        self._runs += 1
        before = min(faults) - 1
        self._diverged += played.points[:before] != self._base.points[:before]
        if wrong := self._judge.judge(played):
            self.broken.append(Broken(played, wrong))
        return len(played.points)

    def explored(self, seconds: float) -> Exploration:
        """Return what was explored so far."""
        points = tuple(self._base.points)
        return Exploration(points, self._runs, self._left_out, self._diverged, seconds)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "explore_crashes runs event loops of its own: call it from a plain function, "
        "or await asyncio.to_thread(explore_crashes, ...)"
    )


def _with_one_more(ends: Sequence[tuple[Faults, int]]) -> Iterator[Faults]:
    """Return what can go wrong after everything else that does in runs of so many points."""
    for faults, count in ends:
        for point in range(max(faults, default=0) + 1, count + 1):
            for fault in Fault:
                yield {**faults, point: fault}


def _sample(scripts: list[Faults], most: int, rng: random.Random) -> list[Faults]:
    if len(scripts) <= most:
        return scripts
    return [scripts[place] for place in sorted(rng.sample(range(len(scripts)), most))]
