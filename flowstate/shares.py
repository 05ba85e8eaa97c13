"""Divides what is due among delayers that know nothing of each other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from zlib import crc32

from flowstate.driver import DelayedState

__all__ = ["Shares"]

COUNT = 64


class Shares:
    """In which order one delayer fires what is due at the same time.

    Every state belongs to one of 64 shares, the same for every delayer. Each delayer begins with
    other shares, and puts those at the end in which others were faster. So each soon has shares
    to itself, and helps with those of the others when nothing is left in its own.

    Args:
        rng: chooses the first order.
    """

    def __init__(self, rng: Random) -> None:
        self._order = rng.sample(range(COUNT), COUNT)

    def arrange(self, delays: Iterable[DelayedState]) -> list[DelayedState]:
        """Return delays in the order in which to fire them.

        Those of one state stay in the order that they have, so that the earliest wins.
        """
        places = {share: place for place, share in enumerate(self._order)}
        return sorted(delays, key=lambda delay: places[_share_of(delay)])

    def learn(self, delays: Sequence[DelayedState], lost: Sequence[DelayedState]) -> None:
        """Put the shares at the end of which more was lost to others than not."""
        counts = Counter(map(_share_of, delays))
        losses = Counter(map(_share_of, lost))
        self._order.sort(key=lambda share: 2 * losses[share] > counts[share])


def _share_of(delay: DelayedState) -> int:
    return crc32(delay.state.id.encode(errors="replace")) % COUNT
