"""Judges whether a join is over, and how."""

from collections.abc import Collection, Mapping
from enum import Enum

from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.operations import Each, Join, Operation
from flowstate.engines.kernel.threads import Thread

__all__ = ["Verdict", "check_held", "judge"]

HELD = {"join": Join, "each": Each}  # What a thread has branches or children for.


def check_held(operation: Operation, thread: Thread, branches: Mapping[str, Thread]) -> None:
    """Raise ``MisfitError`` if a thread has branches or children that its stop does not want."""
    held = HELD.get(thread.does)
    if held is None:
        return
    if not isinstance(operation, held):
        raise MisfitError(f"stop {operation.name!r} is no {thread.does} any more")
    if isinstance(operation, Join):
        wanted = [each.name for each in operation.branches]
        had = [each.branch for each in branches.values()]
        if had != wanted:
            raise MisfitError(f"stop {operation.name!r} has the branches {wanted}, and had {had}")


class Verdict(Enum):
    """What has become of a join: everything but ``OPEN`` ends the branches that still run."""

    OPEN = "open"
    GAVE = "gave"
    FAILED = "failed"
    OWED = "owed"


def judge(
    join: Join, thread: Thread, branches: Collection[Thread], apart_from: Thread | None = None
) -> Verdict:
    """Return what has become of a join.

    Args:
        join: says how many must give a value, and what a failing branch means.
        thread: that waits for it.
        branches: of the join.
        apart_from: a branch that counts as if it still ran.
    """
    if thread.owed:
        return Verdict.OWED
    wanted = len(branches) if join.wanted is None else min(join.wanted, len(branches))
    picked = len(thread.picked)
    if picked >= wanted:
        return Verdict.GAVE
    if thread.error is None:
        return Verdict.OPEN
    running = sum(each.does != "ended" or each is apart_from for each in branches)
    if join.wanted is None:
        is_over = join.strict is not False or not running
    else:
        is_over = join.strict is True or picked + running < wanted
    return Verdict.FAILED if is_over else Verdict.OPEN
