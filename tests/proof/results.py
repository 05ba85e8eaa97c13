"""What came of the trials of a bug, and the table of all of them."""

from collections.abc import Sequence

from msgspec import Struct

from tests.proof.bug import LAYERS, Bug

__all__ = ["Attempt", "Result", "markdown", "table"]


class Attempt(Struct, frozen=True):
    """One trial that is over.

    Attributes:
        layer: that looked.
        how: what has found the bug; empty if nothing has.
        seconds: that it took.
        error: why the trial says nothing; empty if it does.
    """

    layer: str
    how: str
    seconds: float
    error: str = ""


class Result(Struct, frozen=True):
    """What came of all trials of a bug.

    Attributes:
        bug: that was planted.
        attempts: in the order of their beginning.
        is_control: whether nothing was planted, so that nothing may be found.
    """

    bug: Bug
    attempts: tuple[Attempt, ...]
    is_control: bool = False

    @property
    def found(self) -> list[Attempt]:
        """The attempts that have found something."""
        return [attempt for attempt in self.attempts if attempt.how]

    @property
    def seconds(self) -> float:
        """How long all trials took until the first find."""
        total = 0.0
        for attempt in self.attempts:
            total += attempt.seconds
            if attempt.how:
                break
        return total

    @property
    def is_good(self) -> bool:
        """Whether the bug was found, or nothing where nothing is."""
        if any(attempt.error for attempt in self.attempts):
            return False
        return bool(self.found) is not self.is_control

    def cell(self, layer: str) -> str:
        """Return what one layer has done, for the matrix."""
        for attempt in self.attempts:
            if attempt.layer == layer:
                found = f"{attempt.seconds:.1f} s" if attempt.how else "no"
                return "error" if attempt.error else found
        return ""


def table(results: Sequence[Result]) -> str:
    """Return all results as text."""
    rows = [("bug", "where", "found by", "seconds")]
    rows += [
        (
            result.bug.name,
            result.bug.where,
            ", ".join(attempt.layer for attempt in result.found) or "nothing",
            f"{result.seconds:.1f}" if result.found else "",
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, where, found, seconds in rows:
        cells = (f"{name:{widths[0]}}", f"{where:{widths[1]}}", f"{found:{widths[2]}}")
        lines.append("  ".join((*cells, f"{seconds:>{widths[3]}}")))
    return "\n".join(lines)


def markdown(results: Sequence[Result]) -> str:
    """Return the matrix of bugs and layers for the documentation."""
    lines = [f"| bug | {' | '.join(LAYERS)} |", f"|---|{'---|' * len(LAYERS)}"]
    for result in results:
        cells = " | ".join(result.cell(layer) for layer in LAYERS)
        lines.append(f"| {result.bug.name} | {cells} |")
    return "\n".join(lines)
