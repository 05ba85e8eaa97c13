"""Random workflows end as plain Python does, wherever their processes die."""

from collections import Counter

import pytest

from tests.engines.generated.crashing import Compared, compare

GROUP = 20


def compared(group: int) -> list[Compared]:
    seeds = range(group * GROUP, (group + 1) * GROUP)
    return [found for found in map(compare, seeds) if found is not None]


@pytest.mark.slow
@pytest.mark.parametrize("group", range(5))
def test_a_workflow_ends_alike(group: int) -> None:
    found = compared(group)

    outcomes = Counter(each.outcome for each in found)
    assert outcomes["done"] >= 5
    assert outcomes["cancelled"] >= 1
    assert sum(len(each.explored.points) for each in found) > 200


@pytest.mark.nightly
@pytest.mark.parametrize("group", range(5, 500))
def test_many_workflows_end_alike(group: int) -> None:
    assert len(compared(group)) >= GROUP / 2
