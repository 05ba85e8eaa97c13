"""The example of a crash finds its bug, and the saga of the cookbook has none."""

from typing import Any

import pytest

from flowstate.testing import explore_crashes

pytestmark = pytest.mark.repository

double_charge = pytest.importorskip("examples.double_charge")
saga = pytest.importorskip("examples.cookbook.saga")


def test_the_bug_is_found() -> None:
    found = double_charge.explore(double_charge.careless)

    assert "[('4242', 995), ('4242', 995)] after the crash" in found


def test_the_key_mends_it() -> None:
    found = double_charge.explore(double_charge.careful)

    assert found.startswith("nothing is wrong in 3 commit points, 12 runs of ")


def test_the_saga_passes() -> None:
    def make_world() -> Any:
        saga.services.seen.clear()
        saga.services.booked.clear()
        return saga.services

    explored = explore_crashes(
        make_world,
        lambda _: saga.flows,
        lambda engine, _: saga.demo(engine),
        outside=lambda services: services.booked,
    )

    assert len(explored.points) > 10
