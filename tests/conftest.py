"""Leaves out the tests of examples where only the tests are, as beside an installed wheel."""

from pathlib import Path

collect_ignore = (
    [] if (Path(__file__).parent.parent / "examples").is_dir() else ["test_cookbook.py"]
)
