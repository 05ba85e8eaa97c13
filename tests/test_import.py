"""What `import flowstate` costs, what it brings along, and which names it promises."""

import importlib
import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import flowstate
import flowstate.drivers
import flowstate.recovery
import flowstate.testcases
import flowstate.testing

ALLOWED_SECONDS = 0.040
ATTEMPTS = 8
OPTIONAL = {
    "_sqlite3",
    "hypothesis",
    "psycopg",
    "psycopg_pool",
    "pytest",
    "redis",
    "rich",
    "sqlite3",
}

MODULES_AFTER_IMPORT = "import json, sys, flowstate; print(json.dumps(list(sys.modules)))"
SECONDS_OF_IMPORT = """
import time
start = time.process_time()
import asyncio, {}
print(time.process_time() - start)
"""


def fresh(program: str) -> Any:
    """What a new interpreter prints, which sees installed packages only."""
    return json.loads(subprocess.check_output([sys.executable, "-I", "-c", program]))


def public_modules() -> list[str]:
    found = set[str]()
    for root in (
        flowstate,
        flowstate.drivers,
        flowstate.recovery,
        flowstate.testcases,
        flowstate.testing,
    ):
        found.add(root.__name__)
        found |= {info.name for info in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")}
    return sorted(name for name in found if "._" not in name)


def test_import_brings_no_driver_and_nothing_optional() -> None:
    modules = set(fresh(MODULES_AFTER_IMPORT))
    own = {".".join(name.split(".")[:2]) for name in modules}

    assert "flowstate" in modules
    assert {name.partition(".")[0] for name in modules} & OPTIONAL == set()
    assert own & {"flowstate.drivers", "flowstate.recovery", "flowstate.testcases"} == set()


@pytest.mark.alone
def test_import_takes_at_most_40_ms_more_than_asyncio_attrs_and_msgspec() -> None:
    # A busy machine only adds to a time, so the best of several attempts is nearest to the truth.
    base, ours = 1.0, 1.0
    for _ in range(ATTEMPTS):
        base = min(base, fresh(SECONDS_OF_IMPORT.format("attrs, msgspec")))
        ours = min(ours, fresh(SECONDS_OF_IMPORT.format("flowstate")))

    assert ours - base <= ALLOWED_SECONDS


@pytest.mark.parametrize("name", public_modules())
def test_public_names_are_listed_in_order_and_exist(name: str) -> None:
    module = importlib.import_module(name)

    assert module.__all__ == sorted(set(module.__all__))
    assert [each for each in module.__all__ if not hasattr(module, each)] == []
