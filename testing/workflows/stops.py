"""Which stops of workflows were reached, and what came of them there."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from flowstate.engines.kernel.code import Code, Frame
from flowstate.engines.kernel.operations import Failed, Operation, Outcome
from flowstate.engines.workflow.definition import Definition
from flowstate.engines.workflow.section_code import Body

__all__ = ["StopCoverage", "StopUse", "cover_stops"]

HEADINGS = ("", "kind", "line", "reached", "passed", "raised", "timed out")


class StopUse(Struct):
    """What has happened at a stop. A crash or a lost race lets the same happen again.

    Attributes:
        kind: ``step``, ``wait``, ``call``, ``join``, ``each``, ``until`` or ``go``.
        line: in the source; 0 if there is none.
        reached: how often a thread was asked there what it wants.
        passed: how often it got a value there.
        raised: how often an error, also one that was caught.
        timed_out: how often a ``TimeoutError``, or a ``Timeout`` of a wait.
    """

    kind: str
    line: int
    reached: int = 0
    passed: int = 0
    raised: int = 0
    timed_out: int = 0


class StopCoverage(Struct):
    """Which stops were reached; ``str`` makes tables of it.

    Attributes:
        stops: by definition, with its file and line, and by name.
    """

    stops: dict[str, dict[str, StopUse]] = field(default_factory=dict)

    def missed(self) -> dict[str, list[str]]:
        """Return the stops that no test has reached, by definition."""
        found = {
            name: [stop for stop, use in stops.items() if not use.reached]
            for name, stops in self.stops.items()
        }
        return {name: stops for name, stops in found.items() if stops}

    def add(self, code: Code) -> None:
        """Let the stops of a definition, and of what it uses, be in the report."""
        name = _title(code)
        if name not in self.stops:
            self.stops[name] = {key: StopUse(at.kind, at.line) for key, at in code.stops.items()}
            for used in code.uses.values():
                self.add(used)

    def merge(self, other: "StopCoverage") -> None:
        """Add what another process has counted."""
        for name, stops in other.stops.items():
            for stop, use in stops.items():
                own = self.stops.setdefault(name, {}).setdefault(stop, StopUse(use.kind, use.line))
                for count in ("reached", "passed", "raised", "timed_out"):
                    setattr(own, count, getattr(own, count) + getattr(use, count))

    def use(self, code: Code, frame: Frame) -> StopUse:
        """Return what is known of the stop of a frame."""
        self.add(code)
        stops = self.stops[_title(code)]
        renamed: Mapping[str, str] = getattr(code, "renamed", {})
        name = renamed.get(frame.stop, frame.stop)
        return stops.setdefault(name, StopUse("", 0))

    def __str__(self) -> str:
        return "\n".join(line for name in sorted(self.stops) for line in self._lines(name))

    def _lines(self, name: str) -> list[str]:
        stops = self.stops[name]
        reached = sum(1 for use in stops.values() if use.reached)
        rows = [HEADINGS, *(_row(stop, use) for stop, use in stops.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return [f"{name}: {reached} of {len(stops)} stops", *(f"  {line}" for line in lines)]


def _title(code: Code) -> str:
    function = getattr(code, "function", None)
    if function is None:
        return code.name
    source = function.__code__
    return f"{code.name} ({Path(source.co_filename).name}:{source.co_firstlineno})"


def _row(stop: str, use: StopUse) -> tuple[str, ...]:
    counts = (use.line, use.reached, use.passed, use.raised, use.timed_out)
    return (stop, use.kind, *(str(count or "-") for count in counts))


@contextlib.contextmanager
def cover_stops(*codes: Code) -> Iterator[StopCoverage]:
    """Note which stops are reached by any workflow of this process.

    Args:
        *codes: are in the report in any case; others are when they run.
    """
    coverage = StopCoverage()
    for code in codes:
        coverage.add(code)
    with _noting(Definition, coverage), _noting(Body, coverage):
        yield coverage


@contextlib.contextmanager
def _noting(kind: Any, coverage: StopCoverage) -> Iterator[None]:
    ask, go_on = kind.ask, kind.go_on

    def asking(self: Any, frame: Frame, data: Any) -> Operation:
        coverage.use(self, frame).reached += 1
        return ask(self, frame, data)  # type: ignore[no-any-return]

    def going_on(self: Any, frame: Frame, data: Any, outcome: Outcome) -> Any:
        use = coverage.use(self, frame)
        if not isinstance(outcome, Failed):
            use.passed += 1
        elif isinstance(outcome.error, TimeoutError):
            use.timed_out += 1
        else:
            use.raised += 1
        return go_on(self, frame, data, outcome)

    # Not a wrapper around definitions: the kernel and they themselves know each other by identity.
    kind.ask, kind.go_on = asking, going_on
    try:
        yield
    finally:
        kind.ask, kind.go_on = ask, go_on
