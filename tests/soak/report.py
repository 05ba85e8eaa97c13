"""What came of a soak, for a person."""

from collections.abc import Sequence

from tests.soak.stage import Tally

__all__ = ["table"]


def table(tallies: Sequence[Tally]) -> str:
    """Return a line for each stage, and below them how often what happened."""
    rows = [("stage", "done", "failures", "seconds", "seeds")]
    rows += [_row(tally) for tally in tallies]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for tally in tallies:
        figures = ", ".join(f"{number:,} {name}" for name, number in tally.figures.items())
        lines += [f"{tally.stage.name}: {figures}"] if figures else []
    return "\n".join(lines)


def _row(tally: Tally) -> tuple[str, str, str, str, str]:
    return (
        tally.stage.name,
        f"{tally.done:,} {tally.stage.unit}",
        f"{len(tally.failures)}",
        f"{tally.seconds:.0f}",
        _seed_ranges(tally.seeds),
    )


def _seed_ranges(seeds: Sequence[tuple[int, int]]) -> str:
    """Return the seeds of some pieces, with those that follow each other as one range."""
    ranges: list[list[int]] = []
    for first, last in sorted(seeds):
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1][1] = last
        else:
            ranges.append([first, last])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)
