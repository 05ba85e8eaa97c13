"""What cannot be compiled is refused with its line, its name, and what to write instead."""

from typing import Any

import pytest

from flowstate.engines.workflow import CompileError, Problem, helper
from tests.engines.compiler.driving import compiled
from tests.engines.compiler.refusals import FIRST, NAMES, TABLE
from tests.engines.compiler.world import loaded


@pytest.mark.parametrize("what", TABLE)
def test_refuses(what: str) -> None:
    body, problems = TABLE[what]
    code = compiled(body, f"<{what}>", **NAMES, inner=helper(inner))

    with pytest.raises(CompileError) as raised:
        _ = code.compiled

    expected = [
        Problem(f"<{what}>", FIRST - 1 + line, "it", name, reason, fix)
        for line, name, reason, fix in problems
    ]
    assert list(raised.value.problems) == expected


async def inner(s: Any) -> None:
    pass


def test_says_where_and_what_to_write() -> None:
    code = compiled("await other()", "<place>")

    with pytest.raises(CompileError) as raised:
        _ = code.compiled

    assert str(raised.value) == (
        "<place>:7: it: other(): only stops are awaited in a definition; "
        "write await step(function, ...)"
    )


@pytest.mark.parametrize(
    ("parameters", "name", "reason", "fix"),
    [
        ("", "it", "has no parameter", "take the data of the instance first"),
        ("s, *args", "*args", "cannot be stored by name", "write out the parameters"),
        ("s, **more", "*more", "cannot be stored by name", "write out the parameters"),
        (
            "s, a",
            "a",
            "is a parameter, and its type is not known",
            "write a: ... with a type that JSON can hold",
        ),
    ],
)
def test_refuses_parameters(parameters: str, name: str, reason: str, fix: str) -> None:
    module = loaded(f"async def it({parameters}):\n    pass\n", "<parameters>", {})

    with pytest.raises(CompileError) as raised:
        _ = helper(module["it"]).compiled

    assert raised.value.problems == (Problem("<parameters>", 1, "it", name, reason, fix),)


def test_needs_the_type_of_what_a_finally_with_a_stop_returns() -> None:
    text = """
from flowstate.engines.workflow import step
async def it(s: Data):
    try:
        return number(2)
    finally:
        await step(number, 1)
"""
    code = helper(loaded(text, "<returns>", {})["it"])
    code.compiled  # noqa: B018 - Any can be stored
