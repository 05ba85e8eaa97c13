"""Deterministic simulation: a seed makes a world, and the same seed makes the same world again.

The real engine, watchers, delayers and recoverers run in an event loop in virtual time, against a
store behind a network, while processes crash, stand still and are cut off. What happens follows
from the seed alone, so whatever goes wrong can be looked at as often as one likes::

    python -m flowstate.testing.simulation SEED
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from flowstate.testing.simulation.world import World

__all__ = ["Outcome", "Schedules", "run_schedule", "run_schedules"]

logger = logging.getLogger("flowstate")


class Outcome(Struct, frozen=True):
    """What came of one seed.

    Attributes:
        seed: of the world.
        violations: what was wrong; empty if all is well.
        trace: what happened, a line each.
        counts: how often what happened.
    """

    seed: int
    violations: list[str]
    trace: list[str]
    counts: Counter[str]

    @property
    def digest(self) -> str:
        """The hash of the trace; the same for the same seed."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Schedules(Struct, frozen=True):
    """What came of many seeds.

    Attributes:
        failures: the outcomes that violate something.
        counts: how often what happened, in all of them.
        seconds: that it took.
    """

    failures: list[Outcome]
    counts: Counter[str]
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"seed {failure.seed}: {failure.violations[0]}\n"
            f"    replay: python -m flowstate.testing.simulation {failure.seed}"
            for failure in self.failures
        ]
        return "\n".join(lines)


def run_schedule(seed: int, *, log: bool = False) -> Outcome:
    """Run one world, and check it.

    Args:
        seed: of the world.
        log: whether what flowstate logs becomes part of the trace.
    """
    world = World(seed)
    with _logging_to(world if log else None):
        world.run()
    store = world.store
    counts = store.counts
    counts["schedules"] += 1
    counts["callbacks"] += world.loop.steps
    counts["virtual seconds"] += int(world.loop.time())
    counts["revisions"] += len(store.log)
    counts.update(world.tally())
    trace = [f"{at:9.4f} {what}" for at, what in store.trace]
    trace.append(f"{world.loop.steps} callbacks, and the next number is {world.rng.random()}")
    return Outcome(seed, world.violations, trace, counts)


def run_schedules(first_seed: int, count: int) -> Schedules:
    """Run the worlds of so many seeds, one after the other."""
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    failures = []
    for seed in range(first_seed, first_seed + count):
        outcome = run_schedule(seed)
        counts.update(outcome.counts)
        if outcome.violations:
            failures.append(outcome)
    return Schedules(failures, counts, time.perf_counter() - began)


class _ToTrace(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Write into the trace."""
        self._world.store.note(f"    {record.levelname}: {record.getMessage()}")


@contextmanager
def _logging_to(world: World | None) -> Iterator[None]:
    """Let flowstate log into the trace, or nowhere."""
    before = (logger.level, logger.propagate)
    handler = _ToTrace(world) if world else None
    logger.propagate = False
    if handler:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if handler else logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        if handler:
            logger.removeHandler(handler)
