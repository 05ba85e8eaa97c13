"""The page that names a test for each promise names tests that are there."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "engines" / "proof.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def names_in(file: str) -> set[str]:
    tree = ast.parse((HERE / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in tree.body if isinstance(each, functions)}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_the_tests_exist(file: str) -> None:
    assert {name for each, name in NAMED if each == file} <= names_in(file)


def test_each_promise_has_tests() -> None:
    rows = re.findall(r"^\| (E\d+) [^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)

    assert [promise for promise, _ in rows] == [f"E{number}" for number in range(1, 13)]
    assert all("::" in tests for _, tests in rows)
