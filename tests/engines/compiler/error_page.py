"""The table of what the compiler refuses, in the words of the compiler.

``python -m tests.engines.compiler.error_page`` writes it into the page.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowstate.engines.workflow import CompileError, Problem, helper, step, sub
from tests.engines.compiler.driving import compiled
from tests.engines.compiler.refusals import NAMES, TABLE, Opaque
from tests.engines.compiler.world import Data, loaded, number

__all__ = ["PAGE", "rows", "written"]

PAGE = Path(__file__).parents[3] / "docs" / "engines" / "errors.md"
HEAD = "| you write | the compiler says | and what to write instead |\n|---|---|---|\n"
PARAMETERS = ("", "s, *args", "s, **more", "s, a")


async def inner(s: Data) -> None:
    pass


def opaques() -> list[Opaque]:
    return []


def plain(s: Data) -> Any: ...


def _twins() -> Any:
    """Return a definition that uses two helpers of one name."""

    async def other(s: Data) -> None:
        pass

    one, two = helper(name="twin")(other), helper(name="twin")(inner)

    async def it(s: Data) -> None:
        await sub(one)
        await sub(two)

    return helper(it)


def _shared() -> Any:
    text = "def outer():\n  n = 1\n  async def it(s):\n    nonlocal n\n    n = 2\n  return it\n"
    return helper(loaded(text, "<row shared>", {})["outer"]())


def _wrapped() -> Any:
    @functools.wraps(inner)
    async def it(s: Data) -> None:
        await inner(s)

    return helper(it)


def _unstored() -> Any:
    """Return a definition whose result cannot be stored, and has to be."""
    body = "  try:\n    return opaque()\n  finally:\n    await step(number, 1)\n"
    text = f"async def it(s) -> Opaque:\n{body}"
    return helper(loaded(text, "<row finally>", {**NAMES, "step": step})["it"])


def _executed() -> Any:
    module: dict[str, Any] = {"step": step, "number": number}
    exec("async def it(s):\n    await step(number, 1)", module)  # noqa: S102 - that is the point
    return helper(module["it"])


def _definitions() -> Iterator[tuple[str, Any]]:
    """Yield what is written, and what it defines."""
    for what, (body, problems) in TABLE.items():
        if len(problems) == 1:
            yield body, compiled(body, f"<row {what}>", **NAMES, inner=helper(inner))
    for each in PARAMETERS:
        text = f"async def it({each}):"
        yield text, helper(loaded(f"{text}\n    pass\n", f"<row {each}>", {})["it"])
    items = "for x in opaques():\n    await step(number, 1)"
    yield items, compiled(items, "<row items>", opaques=opaques)
    body = "await any_of(go(inner), sleep(3))"
    yield body, compiled(body, "<row branch>", inner=helper(inner))
    yield "try:\n    return opaque()\nfinally:\n    await step(number, 1)", _unstored()
    yield "nonlocal n", _shared()
    yield "@helper\n@wrapping\nasync def it(s): ...", _wrapped()
    yield "@helper\ndef it(s): ...", helper(plain)
    yield "exec('async def it(s): ...')", _executed()
    yield "await sub(one)\nawait sub(two)  # both are @helper(name='twin')", _twins()


def _problem(text: str, definition: Any) -> Problem:
    try:
        _ = definition.compiled, definition.uses
    except CompileError as error:
        (problem,) = error.problems
        return problem
    raise AssertionError(f"{text!r} is not refused")


def _cell(text: str) -> str:
    text = re.sub(r"on line \d+", "on line 7", text)
    return text.replace("|", "\\|").replace("~", "\\~").replace("*", "\\*").replace("<", "&lt;")


def rows() -> str:
    """Return the table."""
    lines = []
    for text, definition in _definitions():
        problem = _problem(text, definition)
        code = "<br>".join(
            "`" + line.replace("    ", "\N{NO-BREAK SPACE}" * 4).replace("|", "\\|") + "`"
            for line in text.splitlines()
        )
        lines.append(
            f"| {code} | {_cell(problem.name)}: {_cell(problem.reason)} | {_cell(problem.fix)} |\n"
        )
    return HEAD + "".join(lines)


def written(page: str) -> str:
    """Return the page with the table of now."""
    return re.sub(r"\| you write .*?\n(?!\|)", lambda _: rows(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
