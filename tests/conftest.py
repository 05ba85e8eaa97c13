"""Leaves out the tests of examples where only the tests are, as beside an installed wheel."""

from pathlib import Path

# Its pytest plugin imports it at the very end otherwise, where CPython 3.11 was seen to fail while
# it parses ("AST constructor recursion depth mismatch"): a syntax tree that is built while the
# garbage collector runs finalizers confuses it.
import hypothesis  # noqa: F401

collect_ignore = (
    [] if (Path(__file__).parent.parent / "examples").is_dir() else ["test_cookbook.py"]
)
