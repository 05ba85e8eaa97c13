"""A type checker sees what the library promises; see typing/api.py."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

API = Path(__file__).parent / "typing" / "api.py"
TREE = Path(__file__).parent.parent


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs the extra dev")
def test_public_names_have_the_types_that_they_promise(tmp_path: Path) -> None:
    # A type checker sees what is installed, unless that only points to the tree.
    path = str(TREE) if (TREE / "flowstate").is_dir() else ""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", API],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": path},
    )

    assert (done.returncode, done.stdout.splitlines()[:-1]) == (0, []), done.stdout + done.stderr
