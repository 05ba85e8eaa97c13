# ruff: noqa: ARG001 - every fault takes the same arguments
"""What goes wrong in a simulated world: crashes, pauses, cuts, clocks, and more."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from flowstate.testing.simulation.process import SimulatedProcess
    from flowstate.testing.simulation.world import World

from datetime import timedelta

__all__ = ["Fault", "MOST_BACK", "draw_faults", "strike"]

HOUR = 3600.0
MOST_BACK = 3.0  # Seconds by which the clock of the store is behind.
RETURNS = 0.5  # How often that clock is soon right again.
RETURNS_SOON = 0.5  # Of the seconds of other faults.
# How often each kind comes, in relation to the others.
WEIGHTS = {
    "crash": 4,
    "pause": 4,
    "cut": 4,
    "lossy": 3,
    "clock": 2,
    "store clock back": 2,
    "store clock ahead": 1,
    "damage": 2,
    "cancel": 4,
    "stop": 2,
    "poke": 3,
    "compact": 1,
}
CANCELLED = ("client ", "watch ", "flowstate s")


class Fault(Struct, frozen=True):
    """Something that is to go wrong.

    Attributes:
        at: when.
        kind: what; see ``WEIGHTS``.
        seconds: how long it lasts, for what lasts.
    """

    at: float
    kind: str
    seconds: float


def draw_faults(rng: Random, count: int, within: float) -> list[Fault]:
    """Return faults, in the order of their times."""
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    times = sorted(rng.uniform(0.2, within) for _ in range(count))
    return [Fault(at, kind, rng.uniform(0.2, 4.0)) for at, kind in zip(times, kinds, strict=True)]


def strike(world: "World", fault: Fault) -> None:
    """Let a fault happen to some process that can have it."""
    alive = [process for process in world.processes if process.is_alive and process.is_started]
    if not alive:
        return
    process = world.rng.choice(alive)
    if process.group.is_paused and fault.kind != "crash":
        return
    world.store.counts[fault.kind] += 1
    world.store.note(f"{fault.kind} {process} for {fault.seconds:.3f} s")
    STRIKES[fault.kind](world, process, fault.seconds)


def _crash(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    if process.is_leading:
        world.store.counts["crashed leaders"] += 1
    world.crash(process)
    world.after(seconds, lambda: world.restart(process))


def _stop(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    process.stop()
    process.main.add_done_callback(lambda _: world.after(0.1, lambda: world.restart(process)))


def _pause(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    if process.is_leading:
        world.store.counts["paused leaders"] += 1
    world.pause(process)
    world.after(seconds, lambda: world.resume(process))


def _cut(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    process.link.cut = world.rng.choice(("lost", "refused"))

    def heal() -> None:
        process.link.cut = None

    world.after(seconds, heal)


def _lossy(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    process.link.loss = world.rng.uniform(0.1, 0.5)

    def heal() -> None:
        process.link.loss = 0.0

    world.after(seconds, heal)


def _clock(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    process.clock.error += timedelta(seconds=world.rng.choice((-HOUR, HOUR)))


def _store_clock_back(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    clock = world.store.clock
    back = timedelta(seconds=world.rng.uniform(0.01, MOST_BACK))
    clock.error = max(clock.error - back, timedelta(seconds=-MOST_BACK))
    if world.rng.random() < RETURNS:
        world.after(seconds * RETURNS_SOON, lambda: _store_clock_ahead(world, process, seconds))


def _store_clock_ahead(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    """Let the clock of the store jump ahead, to where it would be had it not stepped back."""
    if world.store.clock.error:
        world.store.clock.error = timedelta(0)
        world.store.jumped_at = world.loop.time()


def _damage(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    world.store.damage()


def _cancel(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    tasks = [
        task
        for task in process.group.tasks
        if not task.done() and task.get_name().startswith(CANCELLED)
    ]
    if tasks:
        task = world.rng.choice(tasks)
        world.store.counts[f"cancelled {task.get_name().split()[0]}"] += 1
        task.cancel()


def _poke(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    world.poke(process)


def _compact(world: "World", process: "SimulatedProcess", seconds: float) -> None:
    below = max(0, len(world.store.log) - world.rng.randrange(20))
    process.serve(process.compact(below), "compact")


STRIKES: dict[str, Callable[["World", "SimulatedProcess", float], None]] = {
    "crash": _crash,
    "pause": _pause,
    "cut": _cut,
    "lossy": _lossy,
    "clock": _clock,
    "store clock back": _store_clock_back,
    "store clock ahead": _store_clock_ahead,
    "damage": _damage,
    "cancel": _cancel,
    "stop": _stop,
    "poke": _poke,
    "compact": _compact,
}
