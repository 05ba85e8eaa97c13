"""Every bug that can be planted, and the library as it is beside them."""

import pytest

from tests import planted_bugs
from tests.broken import BROKEN, Base
from tests.planted_bugs import lost_replies_are_refusals, tokens_are_ignored
from tests.proof import core_bugs, postgres_bugs, primitive_bugs, redis_bugs, sqlite_bugs
from tests.proof.bug import CASE_LIMIT, LAYERS, Bug, Plant, Trial

__all__ = ["ALL", "CONTROLS", "DRIVEN", "bug_named", "with_all_layers"]

CONTROL_SECONDS = 30.0
OTHER_SECONDS = 8.0
HANGS = {"NoWakeup", "StuckLock"}  # Only a time limit ends a case on these.
APPLICABLE = {
    "core": set(LAYERS),
    "simulated network": {"simulation"},
    "memory": {"conformance", "programs", "histories"},
    "sqlite": set(LAYERS) - {"simulation"},
    "postgres": set(LAYERS) - {"simulation"},
    "redis": set(LAYERS) - {"simulation"},
}


def _nothing(_monkeypatch: pytest.MonkeyPatch) -> None:
    """The library as it is."""


def _of_driver(driver: type[Base], cases: str) -> Bug:
    limit = 3.0 if driver.__name__ in HANGS else CASE_LIMIT
    trial = Trial("conformance", tuple(cases.split()), limit=limit)
    name = f"memory-{driver.__name__}"
    return Bug(name, driver.__doc__ or "", "memory", (trial,), _nothing, "memory", driver)


def _of_plant(plant: Plant) -> Bug:
    on_network = plant in (tokens_are_ignored, lost_replies_are_refusals)
    where = "simulated network" if on_network else "core"
    trials = (Trial("simulation", seconds=120.0),)
    return Bug(plant.__name__, plant.__doc__ or "", where, trials, plant)


# Planted by tests of this folder; tests/test_broken_drivers.py and tests/test_simulation.py plant
# the others.
DRIVEN = (
    *core_bugs.BUGS,
    *primitive_bugs.BUGS,
    *postgres_bugs.BUGS,
    *sqlite_bugs.BUGS,
    *redis_bugs.BUGS,
)
ALL = (
    *DRIVEN,
    *(_of_plant(plant) for plant in planted_bugs.BUGS),
    *(_of_driver(driver, cases) for driver, cases in BROKEN.items()),
)


def with_all_layers(bug: Bug) -> tuple[Trial, ...]:
    """Return the trials of a bug, and after them one for each other layer that can be tried."""
    named = {trial.layer for trial in bug.trials} | {"tests"}  # Of those, the right ones are named.
    others = [layer for layer in LAYERS if layer in APPLICABLE[bug.where] - named]
    return (*bug.trials, *(Trial(layer, seconds=OTHER_SECONDS) for layer in others))


def _control(where: str) -> Bug:
    """Return a bug that is none, tried with whatever finds the bugs there."""
    store = "memory" if where == "core" else where
    found: dict[str, dict[str, None]] = {layer: {} for layer in LAYERS}
    for bug in ALL:
        if store in (bug.store, bug.where):
            for trial in bug.trials:
                found[trial.layer] |= dict.fromkeys(trial.first)
    trials = [
        Trial(layer, tuple(found[layer]), seconds=CONTROL_SECONDS)
        for layer in LAYERS
        if layer in APPLICABLE[where]
    ]
    return Bug(f"control-{where}", _nothing.__doc__ or "", where, tuple(trials), _nothing, store)


CONTROLS = tuple(_control(where) for where in ("core", "sqlite", "postgres", "redis"))


def bug_named(name: str) -> Bug:
    """Return the bug with a name."""
    return next(bug for bug in (*ALL, *CONTROLS) if bug.name == name)
