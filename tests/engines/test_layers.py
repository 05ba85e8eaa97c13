"""Engines are made of what is public in the core, and their floors import only from below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowstate
import flowstate.engines

ROOT = Path(flowstate.engines.__path__[0])
HELPERS = (
    "flowstate.drivers",
    "flowstate.ground.frozen",
    "flowstate.ground.limits",
    "flowstate.recovery",
)


def modules() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


def imports(module: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.module or "", each.name) for each in node.names)


def is_public(source: str, name: str) -> bool:
    if source == "flowstate":
        return name in {"", *flowstate.__all__}
    return source.startswith(("flowstate.engines", *HELPERS))


@pytest.mark.parametrize("module", modules())
def test_engines_import_only_what_is_public_in_the_core(module: str) -> None:
    own = [each for each in imports(module) if each[0].partition(".")[0] == "flowstate"]
    assert [each for each in own if not is_public(*each)] == []


@pytest.mark.parametrize("module", [each for each in modules() if each.startswith("kernel/")])
def test_the_kernel_imports_nothing_of_what_stands_on_it(module: str) -> None:
    above = [source for source, _ in imports(module) if source.startswith("flowstate.engines.")]
    assert [each for each in above if not each.startswith("flowstate.engines.kernel.")] == []


def test_what_is_private_is_told_from_what_is_public() -> None:
    assert is_public("flowstate", "Commit")
    assert is_public("flowstate.ground.limits", "check_id")
    assert not is_public("flowstate", "tasks")
    assert not is_public("flowstate.ground.tasks", "spawn")
    assert not is_public("flowstate.mailboxes.mailbox", "mailbox_id")
