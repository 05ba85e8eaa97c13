"""The page about the compiler tells every refusal, and its code compiles."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.engines.compiler.refusals import TABLE
from tests.engines.compiler.world import loaded

pytestmark = pytest.mark.repository

PAGE = (Path(__file__).parents[3] / "docs" / "engines" / "compiler.md").read_text()
SAID_BY_PYTHON = ("missing a required argument", "got an unexpected keyword argument")


def general(reason: str) -> str:
    """Return the part of a reason that is the same for every program."""
    reason = re.sub(r"a generator$", "a comprehension", reason)
    reason = re.sub(r"^.* cannot be evaluated$", "cannot be evaluated", reason)
    reason = re.sub(r"^is alive at the stop .* and its type", "and its type", reason)
    reason = re.sub(
        r"and its type .* cannot be stored.*$", "and its type ... cannot be stored", reason
    )
    reason = re.sub(r"(the target of an assignment)$", "raise", reason)
    return re.sub(r"on line \d+ already", "on line 7 already", reason)


REASONS = sorted({general(reason) for _, found in TABLE.values() for _, _, reason, _ in found})


@pytest.mark.parametrize("reason", REASONS)
def test_the_page_tells_a_refusal(reason: str) -> None:
    assert reason in PAGE or reason.startswith(SAID_BY_PYTHON)


def test_the_code_of_the_page_compiles() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = loaded(code, "<page>", {})

    assert list(names["order"].stops) == ["charge", "Approved", "packed"]
    assert names["packed"].stops["pack"].levels == ["for item"]
