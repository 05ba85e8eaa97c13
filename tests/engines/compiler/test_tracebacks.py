"""Tracebacks, tracing and debuggers see the lines of the user."""

import sys
import traceback
from random import Random
from typing import Any

import pytest

from tests.engines.compiler.driving import compiled, drive
from tests.engines.compiler.programs import program
from tests.engines.compiler.world import Data, compiled_run, plain_run


def frames_of(error: BaseException | None) -> list[tuple[str, int | None, str]]:
    assert error is not None
    return [
        (each.filename, each.lineno, each.name)
        for each in traceback.extract_tb(error.__traceback__)
    ]


def test_an_error_between_stops_has_its_line_and_columns() -> None:
    code = compiled(
        """
for x in s.xs:
    try:
        await step(number, x)
        log(s, 1 // (x - 2), "a")
    finally:
        s.n += 1
""",
        "<lines>",
    )

    error = drive(code, [1, 1]).error

    assert error is not None
    assert frames_of(error)[0] == ("<lines>", 10, "it")
    (last,) = traceback.extract_tb(error.__traceback__)
    assert (last.colno, last.end_colno) == (19, 31)


def test_an_error_of_a_stop_has_the_line_of_the_stop() -> None:
    code = compiled("a = 1\nb = (\n    await step(number, a)\n)", "<stop>")

    error = drive(code, [ValueError("no")]).error

    assert frames_of(error)[0] == ("<stop>", 9, "it")


def test_a_function_that_is_called_is_in_the_traceback() -> None:
    head = "\ndef inner() -> int:\n    raise LookupError\n"
    code = compiled("await step(number, 1)\ninner()", "<inner>", head)

    error = drive(code, [1]).error

    assert [name for _, _, name in frames_of(error)] == ["it", "inner"]


def lines_of(run: Any, name: str) -> set[int]:
    """Return the lines of a file that are run, as coverage sees them."""
    seen: set[int] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != name:
            return None
        if event == "line":
            seen.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return seen


@pytest.mark.parametrize("seed", range(3, 9))
def test_coverage_misses_no_line_that_is_run(seed: int) -> None:
    source = program(seed)

    plain = lines_of(lambda: plain_run(source, Data([1, 2, 3], log=[]), seed), "<plain>")
    compiled = lines_of(
        lambda: compiled_run(source, Data([1, 2, 3], log=[]), seed, Random(seed)), "<compiled>"
    )

    assert plain - compiled == set()
