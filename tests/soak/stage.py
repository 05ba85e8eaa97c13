"""What a soak is made of: stages, their pieces, and what came of them."""

import time
from collections import Counter

from msgspec import Struct, field

__all__ = ["Outcome", "Piece", "Stage", "Tally"]


class Stage(Struct, frozen=True):
    """One kind of work.

    Attributes:
        name: unique.
        unit: of what it counts.
        amount: how many of them an hour has; 0: it lasts a part of the time instead.
        piece: how many are done at once, without a look at anything else.
        part: of the time that it lasts; if it has an amount, at most this part of what its
            processes have.
    """

    name: str
    unit: str
    amount: int = 0
    piece: int = 0
    part: float = 0.0

    @property
    def kind(self) -> str:
        """What is done: the first word of the name."""
        return self.name.partition("-")[0]

    @property
    def has_seeds(self) -> bool:
        """Whether each unit has a seed of its own, and not each piece."""
        return self.kind in {"schedules", "workflows"}

    @property
    def store(self) -> str:
        """On which store: the second word; empty where there is only one."""
        return self.name.partition("-")[2]


class Piece(Struct, frozen=True):
    """A part of a stage that is done at once, and can be done again.

    Attributes:
        stage: that it belongs to.
        seed: of its chance.
        amount: how many units it has.
    """

    stage: Stage
    seed: int
    amount: int


class Outcome(Struct):
    """What came of a piece.

    Attributes:
        done: units.
        failures: each with the command that replays it.
        figures: how often what happened.
    """

    done: int
    failures: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)


class Tally:
    """What came of a stage until now.

    Args:
        stage: the stage.
        wanted: units in all; 0 if only its time is given.
        most: seconds, after which no piece begins; 0: there is no such bound.

    Attributes:
        stage: as given.
        wanted: as given.
        done: units.
        seeds: of its pieces that are done.
        failures: each with the command that replays it.
        figures: how often what happened.
        seconds: that its pieces took, one after the other.
    """

    def __init__(self, stage: Stage, wanted: int, most: float = 0.0) -> None:
        self.stage = stage
        self._most = most
        self.wanted = wanted
        self.done = 0
        self.seeds: list[tuple[int, int]] = []
        self.failures: list[str] = []
        self.figures: Counter[str] = Counter()
        self.seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Note that a piece begins, of a stage that does one after the other."""
        self._began = time.monotonic()

    def add(self, first: int, last: int, outcome: Outcome, seconds: float) -> None:
        """Add what came of a piece with these seeds."""
        self._began = None
        self.done += outcome.done
        self.seconds += seconds
        self.seeds.append((first, last))
        self.failures += outcome.failures
        self.figures.update(outcome.figures)

    def __str__(self) -> str:
        if self.wanted:
            return f"{self.stage.name} {self.done:,}/{self.wanted:,}"
        lasted = self.seconds + (time.monotonic() - self._began if self._began else 0.0)
        return f"{self.stage.name} {lasted:.0f} s"

    @property
    def is_spent(self) -> bool:
        """Whether it has had its part of the time."""
        return 0.0 < self._most < self.seconds

    @property
    def is_open(self) -> bool:
        """Whether it has begun and is not done."""
        return self._began is not None or (0 < self.done < self.wanted and not self.is_spent)
