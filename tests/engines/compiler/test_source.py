"""Where the source of a definition comes from, and when it is refused."""

import functools
import importlib.util
import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowstate.engines.workflow import CompileError, Problem, helper, step
from tests.engines.compiler.driving import drive
from tests.engines.compiler.world import Data, number


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problem_of(definition: Any) -> Problem:
    with pytest.raises(CompileError) as raised:
        _ = definition.compiled
    (problem,) = raised.value.problems
    return problem


SOURCE = '''
from flowstate.engines.workflow import helper, step
from tests.engines.compiler.world import Data, number
@helper
async def it(s: Data) -> str:
    text = """one
  two"""
    a = await step(number, 1)
    return f"{text} {a}"
'''


def test_texts_of_many_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "texts.py"
    path.write_text(SOURCE)

    assert drive(imported(path).it, [3]).result == "one\n  two 3"


IMPORTS = """
import math, os.path
from datetime import date as day
from flowstate.engines.workflow import helper, step
from tests.engines.compiler.world import Data, number
try:
    import json
except ImportError:
    raise
@helper
async def it(s: Data) -> str:
    a: int = math.floor(1.5)
    await step(number, 1)
    return f"{a} {os.path.basename('x/y')} {day.fromordinal(1)} {json.dumps([math.ceil(0.5)])}"
"""


def test_what_is_imported_may_be_called_by_its_module(tmp_path: Path) -> None:
    path = tmp_path / "imports.py"
    path.write_text(IMPORTS)

    assert drive(imported(path).it, [3]).result == "1 y 0001-01-01 [1]"


def test_a_file_that_was_edited_after_the_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    path.write_text(SOURCE)
    module = imported(path)
    path.write_text(SOURCE.replace("two", "three or four"))

    problem = problem_of(module.it)

    assert (problem.line, problem.reason) == (4, "its source is not what was imported")
    assert problem.fix == "import it again, and leave its code as the source says"


def test_a_file_whose_lines_moved_after_the_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "moved.py"
    path.write_text(SOURCE)
    module = imported(path)
    path.write_text("\n\n" + SOURCE)

    assert problem_of(module.it).reason == "its source cannot be had"


def test_source_that_only_exec_has_seen_is_refused() -> None:
    module: dict[str, Any] = {"step": step, "number": number}
    exec("async def it(s):\n    await step(number, 1)", module)  # noqa: S102 - that is the point

    problem = problem_of(helper(module["it"]))

    assert (problem.name, problem.reason) == ("it", "its source cannot be had")
    assert problem.fix == "define it in a file or a notebook, not by exec"


def test_a_cell_of_a_notebook_has_source() -> None:
    text = "async def it(s):\n    return await step(number, 1)\n"
    name = "<ipython-input-1-c0ffee>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module: dict[str, Any] = {"step": step, "number": number}
    exec(compile(text, name, "exec"), module)  # noqa: S102 - as notebooks do

    assert drive(helper(module["it"]), [5]).result == 5


def plain(s: Data) -> None: ...


class Callable_:  # noqa: N801 - shadows nothing
    __name__ = "called"

    async def __call__(self, s: Data) -> None: ...


@pytest.mark.parametrize("function", [plain, lambda s: s, Callable_()])
def test_what_is_no_coroutine_function_is_refused(function: Any) -> None:
    problem = problem_of(helper(function))

    assert (problem.reason, problem.fix) == ("is not a coroutine function", "write async def")


def test_a_decorator_below_is_refused() -> None:
    def logged(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return await function(*args)

        return wrapper

    @helper
    @logged
    async def it(s: Data) -> None:
        await step(number, 1)

    problem = problem_of(it)

    assert (problem.name, problem.reason) == ("it", "a decorator has wrapped it")
    assert problem.fix == "remove the decorator"


def test_a_decorator_that_gives_the_function_back_is_taken() -> None:
    seen = []

    def noted(function: Callable[..., Any]) -> Any:
        seen.append(function)
        return function

    @helper
    @noted
    async def it(s: Data) -> int:
        return await step(number, 1)

    assert drive(it, [4]).result == 4
    assert seen == [it.function]


def test_each_call_of_a_factory_makes_a_definition_of_its_own() -> None:
    def made(factor: int) -> Any:
        @helper
        async def it(s: Data) -> int:
            return factor * await step(number, factor)

        return it

    assert [drive(made(factor), [2]).result for factor in (3, 4)] == [6, 8]


LATE = """from __future__ import annotations
from typing import TYPE_CHECKING
from msgspec import Struct
from flowstate.engines.workflow import helper, step
from tests.engines.compiler.world import Data
if TYPE_CHECKING:
    from nowhere import Unknown
def listed(a: int, other: Unknown | None = None) -> list[Item]:
    return []
@helper
async def it(s: Data, a: "Item") -> str:
    items: list["Item"] = await step(listed, 1)
    others = await step(listed, 2, name="others")
    await step(listed, a.n, name="last")
    return f"{items} {others}"
class Item(Struct):
    n: int
"""


def test_annotations_may_be_texts(tmp_path: Path) -> None:
    path = tmp_path / "texts_of_types.py"
    path.write_text(LATE)
    module = imported(path)

    driven = drive(module.it, [[module.Item(1)], [module.Item(2)], []], a=module.Item(7))

    assert driven.result == "[Item(n=1)] [Item(n=2)]"
    assert driven.asked[2].args == (7,)  # type: ignore[union-attr]
