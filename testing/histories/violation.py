"""What a history should not have, in words."""

from msgspec import Struct

from flowstate.testing.histories.history import (
    Attempt,
    Committed,
    Delivered,
    Failed,
    LogRow,
    PageRead,
    Refused,
    StateRead,
    Unknown,
    WatchSession,
)

__all__ = ["Operation", "Violation", "describe"]

Operation = Attempt | StateRead | PageRead | Delivered | WatchSession | LogRow
NAMES = {
    "G1": "atomic",
    "G2": "compare-and-set",
    "G4": "one order",
    "G5": "visible",
    "G6": "watch",
    "G7": "durable",
    "G8": "unknown outcomes are resolved",
}
MOST_SHOWN = 8


class Violation(Struct, frozen=True):
    """A guarantee that was not kept; ``str`` tells it to a person.

    Attributes:
        guarantee: ``"G1"`` and so on; see ``docs/guarantees.md``.
        message: what is wrong.
        operations: those that contradict each other, or the log.
    """

    guarantee: str
    message: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.guarantee} {NAMES[self.guarantee]}: {self.message}"]
        lines += [f"    {describe(operation)}" for operation in self.operations]
        return "\n".join(lines)


def describe(operation: Operation) -> str:
    """Return one line about an operation, with its times in seconds."""
    match operation:
        case Attempt(invoked, outcome):
            end = "..." if outcome is None else _seconds(outcome.at)
            wanted = [f"put {id!r} over {rev}" for id, rev in invoked.puts]
            wanted += [f"check {id!r} at {rev}" for id, rev in invoked.checks]
            wanted += [f"store {len(invoked.data)} data"] if invoked.data else []
            wanted += [f"delay {id!r}" for id, _ in invoked.delays]
            what = _few(wanted)
            return (
                f"{_seconds(invoked.at)}-{end} commit {invoked.token}: {what} -> {_ended(outcome)}"
            )
        case StateRead():
            asked = f" at {operation.wanted}" if operation.wanted else ""
            found = f"revision {operation.rev}" if operation.rev else "nothing"
            return f"{_span(operation)} get {operation.id!r}{asked} -> {found}"
        case PageRead():
            return (
                f"{_span(operation)} page after {operation.after} -> "
                f"{_few([str(rev) for rev in operation.revs])} "
                f"(scanned to {operation.scanned_to}, head {operation.head})"
            )
        case Delivered():
            return (
                f"{_seconds(operation.at)} watch saw revision {operation.rev} of {operation.id!r}"
            )
        case WatchSession(begun, delivered, ended):
            revs = _few([str(each.rev) for each in delivered])
            end = f"cursor {ended.cursor}" if ended else "never ended"
            return f"{_seconds(begun.at)} watch {begun.name!r} after {begun.after}: {revs} ({end})"
        case LogRow():
            return f"log: revision {operation.rev} of {operation.id!r}, commit {operation.token}"


def _ended(outcome: object) -> str:
    match outcome:
        case Committed(revs=revs):
            return f"revisions {_few([str(rev) for rev in revs])}"
        case Refused(ids=ids):
            return f"refused because of {_few([repr(id) for id in ids])}"
        case Unknown():
            return "unknown"
        case Failed():
            return "failed, nothing written"
        case _:
            return "its process died"


def _span(read: StateRead | PageRead) -> str:
    return f"{_seconds(read.invoked)}-{_seconds(read.at)}"


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.6f}"


def _few(words: list[str]) -> str:
    if len(words) > MOST_SHOWN:
        words = [*words[: MOST_SHOWN - 1], f"... {len(words)} in all"]
    return ", ".join(words) or "nothing"
