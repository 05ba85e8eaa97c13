"""What a planted bug is, and where it is looked for."""

from collections.abc import Callable

import pytest
from msgspec import Struct

from flowstate.drivers.memory import MemoryDriver

__all__ = ["CASE_LIMIT", "LAYERS", "Bug", "Plant", "Trial"]

Plant = Callable[[pytest.MonkeyPatch], None]
"""Breaks the library; its docstring says what comes of that."""

LAYERS = ("conformance", "programs", "histories", "simulation", "tests")
BUDGET = 20.0
CASE_LIMIT = 60.0


class Trial(Struct, frozen=True):
    """One layer that may find a bug.

    Attributes:
        layer: one of :data:`LAYERS`.
        first: what is tried first: names of conformance cases, or files and tests for pytest.
        seconds: after which nothing more is begun.
        limit: seconds after which one of the first conformance cases counts as one that hangs.
    """

    layer: str
    first: tuple[str, ...] = ()
    seconds: float = BUDGET
    limit: float = CASE_LIMIT


class Bug(Struct, frozen=True):
    """A bug that can be planted.

    Attributes:
        name: unique.
        consequence: what comes of it.
        where: it is: core, simulated network, or the name of a store.
        trials: the cheapest that is expected to find it, and then those that may.
        plant: breaks the library.
        store: on which it is looked for.
        driver: of the store "memory".
    """

    name: str
    consequence: str
    where: str
    trials: tuple[Trial, ...]
    plant: Plant
    store: str = "memory"
    driver: type[MemoryDriver] = MemoryDriver
