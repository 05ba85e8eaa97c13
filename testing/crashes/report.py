"""Judges what has come out of runs with a crash, and says what is wrong for people to read."""

from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from flowstate.recovery.dead import is_dead, read_dead
from flowstate.state import State
from flowstate.testing.crashes.outcome import differences
from flowstate.testing.crashes.process import Fault
from flowstate.testing.crashes.stage import Played
from flowstate.testing.plugin.revisions import format_log

__all__ = ["Broken", "Exploration", "Judge", "report"]

W = TypeVar("W")

MOST_LISTED = 10
MOST_REVISIONS = 60


class Exploration(Struct, frozen=True):
    """What was explored.

    Attributes:
        points: at which the undisturbed run writes to its store, in words.
        runs: with something that goes wrong.
        left_out: runs that ``max_runs`` did not allow.
        diverged: runs that took another course before anything went wrong in them: what the flows
            do differs from time to time, so some crashes were explored twice and others not.
        seconds: that all of it took.
    """

    points: tuple[str, ...]
    runs: int
    left_out: int
    diverged: int
    seconds: float

    def __str__(self) -> str:
        each = 1_000 * self.seconds / (self.runs + 1)
        text = f"{len(self.points)} commit points, {self.runs} runs of {each:.1f} ms"
        if self.left_out:
            text += f", {self.left_out} more left out"
        if self.diverged:
            text += f"; {self.diverged} took another course before their crash"
        return text


class Broken(Struct, Generic[W], frozen=True):
    """A run that did not end as it should have.

    Attributes:
        played: the run.
        why: what is wrong, a paragraph each.
    """

    played: Played[W]
    why: list[str]


class Judge(Generic[W]):
    """Compares runs with the one in which nothing went wrong.

    Args:
        base: that one.
        ignore: see :func:`flowstate.testing.explore_crashes`.

    Raises:
        AssertionError: that one is wrong already.
    """

    def __init__(self, base: Played[W], ignore: Collection[str]) -> None:
        self._base = base
        self._ignore = ignore
        dead = [read_dead(state) for state in base.outcome.states.values() if is_dead(state)]
        wrong = [
            *base.wrong,
            *(f"{each.state.id!r} ended by force: {each.reason}: {each.error}" for each in dead),
        ]
        if wrong:
            lines = ["without any crash:", *_indented(wrong), *_log(base)]
            raise AssertionError("\n".join(lines))

    def judge(self, played: Played[W]) -> list[str]:
        """Return what is wrong with a run."""
        wrong = list(played.wrong)
        if played.outside != self._base.outside:
            wrong.append(
                f"outside: {self._base.outside!r} undisturbed, {played.outside!r} after the crash"
            )
        wrong += differences(self._base.outcome, played.outcome, self._ignore)
        return wrong


def report(broken: Sequence[Broken[W]], explored: Exploration) -> str:
    """Return what is wrong: the first run with its log, and in short the others."""
    first, *others = broken
    lines = [
        f"{len(broken)} of {explored.runs} runs end otherwise than the undisturbed one",
        "",
        f"When {_crash(first.played)}:",
        *_indented(first.why),
        *([f"  ({first.played.note})"] if first.played.note else []),
        *_log(first.played),
    ]
    if others:
        lines += ["", "So it is when"]
        lines += [f"- {_crash(each.played)}" for each in others[:MOST_LISTED]]
    if len(others) > MOST_LISTED:
        lines.append(f"- and {len(others) - MOST_LISTED} more")
    return "\n".join([*lines, "", f"Explored {explored}."])


def _crash(played: Played[W]) -> str:
    return ", and then ".join(
        f"{fault} commit point {number} ({_point(played, number)})"
        for number, fault in played.faults.items()
    )


def _point(played: Played[W], number: int) -> str:
    return played.points[number - 1] if number <= len(played.points) else "never reached"


def _indented(texts: Sequence[str]) -> list[str]:
    return [f"  {line}" for text in texts for line in text.splitlines()]


def _log(played: Played[W]) -> list[str]:
    """Return the revisions of a run, and where its processes died."""
    states: list[State] = played.outcome.log
    heading, *rows = format_log(states)
    lines = []
    deaths = [fault for fault in played.faults.values() if fault is not Fault.ASKED_AGAIN]
    marks = list(zip(played.deaths, deaths, strict=False))
    for state, row in zip(states, rows, strict=True):
        while marks and marks[0][0] < state.rev:
            lines.append("     " + f"--- {marks.pop(0)[1]} a commit ---")
        lines.append(row)
    lines += ["     " + f"--- {fault} a commit ---" for _, fault in marks]
    left_out = len(lines) - MOST_REVISIONS
    if left_out > 0:
        lines[: left_out + 1] = [f"     ... {left_out + 1} lines before"]
    return ["", *_indented([heading, *lines])]
