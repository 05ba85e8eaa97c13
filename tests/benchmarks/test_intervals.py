"""Intervals hold the true value as often as they say, whatever the distribution."""

from collections.abc import Callable
from random import Random

import pytest

from benchmarks.intervals import of_median, of_quotient

pytestmark = pytest.mark.repository

TRIES = 2_000
NEAR = 0.04  # four standard deviations


def lopsided(random: Random, median: float) -> float:
    return median * random.lognormvariate(0, 1)


def two_humps(random: Random, median: float) -> float:
    return median + random.choice([-1, 1]) * random.random()


@pytest.mark.parametrize("draw", [lopsided, two_humps])
@pytest.mark.parametrize("count", [3, 5, 9, 15])
def test_median_is_in_its_interval_as_often_as_said(
    draw: Callable[[Random, float], float], count: int
) -> None:
    random = Random(count)
    estimates = [of_median([draw(random, 2.0) for _ in range(count)]) for _ in range(TRIES)]

    held = sum(estimate.holds(2.0) for estimate in estimates) / TRIES

    assert held == pytest.approx(estimates[0].confidence, abs=NEAR)


@pytest.mark.parametrize(("olds", "news"), [(3, 3), (5, 5), (4, 9), (15, 15)])
def test_quotient_is_in_its_interval_as_often_as_said(olds: int, news: int) -> None:
    random = Random(olds)
    estimates = [
        of_quotient(
            [lopsided(random, 1.0) for _ in range(olds)],
            [lopsided(random, 3.0) for _ in range(news)],
        )
        for _ in range(TRIES)
    ]

    held = sum(estimate.holds(3.0) for estimate in estimates) / TRIES

    assert held == pytest.approx(estimates[0].confidence, abs=NEAR)


@pytest.mark.parametrize(
    ("count", "dropped", "confidence"),
    [(1, 0, 0.0), (3, 0, 0.75), (5, 0, 0.9375), (6, 0, 0.96875), (9, 1, 0.9609375)],
)
def test_interval_is_as_narrow_as_the_confidence_permits(
    count: int, dropped: int, confidence: float
) -> None:
    estimate = of_median(list(range(count)))

    assert (estimate.low, estimate.high) == (dropped, count - 1 - dropped)
    assert estimate.confidence == pytest.approx(confidence)


def test_more_confidence_makes_wider_intervals() -> None:
    samples = list(range(31))

    narrow, wide = of_median(samples, 0.9), of_median(samples, 0.99)

    assert wide.low < narrow.low < narrow.high < wide.high


def test_quotients_of_single_samples_have_no_confidence() -> None:
    estimate = of_quotient([2.0], [3.0])

    assert (estimate.value, estimate.confidence) == (1.5, 0.0)


def test_inverse_turns_the_interval_round() -> None:
    inverse = of_median([2.0, 4.0, 8.0]).inverse()

    assert (inverse.low, inverse.value, inverse.high) == (0.125, 0.25, 0.5)
