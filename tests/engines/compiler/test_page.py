"""The pages about the compiler tell what it refuses, and their code compiles."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.engines.compiler.error_page import PAGE as ERRORS
from tests.engines.compiler.error_page import written
from tests.engines.compiler.world import loaded

pytestmark = pytest.mark.repository

PAGE = (Path(__file__).parents[3] / "docs" / "engines" / "compiler.md").read_text()


def test_the_page_of_errors_has_what_the_compiler_says() -> None:
    page = ERRORS.read_text()

    assert page == written(page), "run python -m tests.engines.compiler.error_page"


def test_the_code_of_the_page_compiles() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = loaded(code, "<page>", {})

    assert list(names["order"].stops) == ["charge", "Approved", "packed"]
    assert names["packed"].stops["pack"].levels == ["for item"]
