"""Confidence intervals that assume no distribution: noise of machines is far from normal."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, product
from math import comb
from statistics import median

from msgspec import Struct

__all__ = ["Estimate", "of_median", "of_quotient"]


class Estimate(Struct, frozen=True):
    """A figure with its interval.

    Attributes:
        value: the estimate.
        low: where the interval begins.
        high: where it ends.
        confidence: the probability that such an interval holds the true value; 0 of one sample.
        count: how many samples it is from.
    """

    value: float
    low: float
    high: float
    confidence: float
    count: int

    def holds(self, figure: float) -> bool:
        """Return whether the figure is in the interval."""
        return self.low <= figure <= self.high

    def inverse(self) -> "Estimate":
        """Return the estimate of one divided by the figure."""
        return Estimate(1 / self.value, 1 / self.high, 1 / self.low, self.confidence, self.count)


def of_median(samples: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate the median of what the samples are from.

    The interval goes from the k-th smallest sample to the k-th largest one. Each sample is below
    the true median with probability one half, so the binomial distribution says exactly, for any
    continuous distribution, how often such an interval misses. Where samples are too few for the
    confidence, the interval is from the smallest to the largest, with less.

    Raises:
        ValueError: there is no sample.
    """
    count = len(samples)
    dropped, sure = _narrowest(_binomial(count), confidence)
    ordered = sorted(samples)
    return Estimate(median(ordered), ordered[dropped], ordered[-1 - dropped], sure, count)


def of_quotient(olds: Sequence[float], news: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate how many times as large the new are, from samples that are not paired.

    The value is the median of all quotients of a new sample by an old one, after Hodges and
    Lehmann; the interval is of these quotients in order, by the exact distribution of the
    statistic of Mann and Whitney. It assumes that the new ones are distributed as the old ones
    times some factor.

    Raises:
        ValueError: there is no sample on one side.
    """
    quotients = sorted(new / old for new, old in product(news, olds))
    dropped, sure = _narrowest(_rank_sum(len(olds), len(news)), confidence)
    low, high = quotients[dropped], quotients[-1 - dropped]
    return Estimate(median(quotients), low, high, sure, min(len(olds), len(news)))


def _narrowest(probabilities: Sequence[float], confidence: float) -> tuple[int, float]:
    """Return how many to drop at either end, and how sure what is left is.

    ``probabilities`` are those that 0, 1, 2... of the ordered values are below the true one.
    """
    tails = list(accumulate(probabilities))[: (len(probabilities) - 1) // 2 or 1]
    dropped = max((n for n, tail in enumerate(tails) if 1 - 2 * tail >= confidence), default=0)
    return dropped, max(0.0, 1 - 2 * tails[dropped])


@cache
def _binomial(count: int) -> tuple[float, ...]:
    return tuple(comb(count, below) / 2**count for below in range(count + 1))


@cache
def _rank_sum(olds: int, news: int) -> tuple[float, ...]:
    """Return how probable each number of pairs is in which the new one is smaller."""
    ways = _ways(olds, news)
    total = comb(olds + news, olds)
    return tuple(way / total for way in ways)


@cache
def _ways(olds: int, news: int) -> tuple[int, ...]:
    """Count the orders of both samples by the pairs in them that are the wrong way round.

    The last in an order is either a new one, which is then in no such pair, or an old one, which
    is in one with each of the new.
    """
    if not olds or not news:
        return (1,)
    last_is_new = _ways(olds, news - 1)
    last_is_old = (0,) * news + _ways(olds - 1, news)
    return _sum(last_is_new, last_is_old)


def _sum(a: Iterable[int], b: Iterable[int]) -> tuple[int, ...]:
    a, b = list(a), list(b)
    length = max(len(a), len(b))
    a += [0] * (length - len(a))
    b += [0] * (length - len(b))
    return tuple(x + y for x, y in zip(a, b, strict=True))
