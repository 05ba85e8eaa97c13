"""What the public conformance kit asks for, with stand-ins for the sites that it calls."""

from pathlib import Path

import pytest

from tests.engines.tasks.conformance.features import Feature, features_in
from tests.engines.tasks.conformance.steps import check, run_feature

FEATURES = [*features_in(Path(__file__).parent / "conformance")]


def test_all_scenarios_are_there() -> None:
    assert len(FEATURES) == 21


@pytest.mark.parametrize("feature", FEATURES, ids=lambda each: each.name)
async def test_scenario(feature: Feature) -> None:
    await run_feature(feature)


def test_a_step_that_is_not_known_fails() -> None:
    with pytest.raises(AssertionError):
        check("the workflow should sing", "", None)
