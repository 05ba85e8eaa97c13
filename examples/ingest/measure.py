"""The figures of one file: pure functions, and the one that reads it."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict

__all__ = [
    "OUTCOMES",
    "Figures",
    "Outcome",
    "SkippedError",
    "figures_of",
    "measure",
    "read",
    "sums",
]

Outcome = Literal["python", "text", "unparsable", "binary", "too large", "unreadable"]
OUTCOMES: tuple[Outcome, ...] = (
    "python",
    "text",
    "unparsable",
    "binary",
    "too large",
    "unreadable",
)

LARGEST = 2 * 1024 * 1024
BINARY_WITHIN = 8 * 1024
PYTHON_SUFFIXES = frozenset({".py", ".pyi"})
# CPython 3.11 can mix up two threads that build syntax trees at once (SystemError: "AST
# constructor recursion depth mismatch"). Parsing holds the interpreter's lock anyway.
_parsing = Lock()
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Figures(Struct, frozen=True):
    """What is known of a file. Files that are skipped have zeros."""

    outcome: Outcome
    bytes: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0


class SkippedError(Exception):
    """A file is not measured.

    Attributes:
        outcome: why not.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome: Outcome = outcome


def read(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        SkippedError: it is binary, too large or unreadable.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError:
        raise SkippedError("unreadable") from None
    if b"\0" in content[:BINARY_WITHIN]:
        raise SkippedError("binary")
    if len(content) > LARGEST:
        raise SkippedError("too large")
    return content


def measure(content: bytes, suffix: str) -> Figures:
    """Count the lines of a text, and what a Python file defines and imports."""
    lines = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    if suffix not in PYTHON_SUFFIXES:
        return Figures("text", len(content), lines)
    try:
        with _parsing:
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Figures("unparsable", len(content), lines)
    kinds = Counter(type(statement) for statement in _statements(tree))
    return Figures(
        "python",
        len(content),
        lines,
        functions=kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef],
        classes=kinds[ast.ClassDef],
        imports=kinds[ast.Import] + kinds[ast.ImportFrom],
    )


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Iterate over the statements at every depth; unlike ``ast.walk``, not over expressions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for block in BLOCKS:
            todo += getattr(node, block, ())


def figures_of(path: Path) -> Figures:
    """Read and measure a file."""
    try:
        return measure(read(path), path.suffix)
    except SkippedError as skipped:
        return Figures(skipped.outcome)


def sums(figures: Iterable[Figures]) -> Counter[str]:
    """Add up the figures, and count the files with each outcome."""
    total: Counter[str] = Counter()
    for each in figures:
        counts = asdict(each)
        total[counts.pop("outcome")] += 1
        total["files"] += 1
        total.update(counts)
    return total
