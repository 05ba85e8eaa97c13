"""No tests of benchmarks where only the tests are, as beside a wheel."""

from pathlib import Path

collect_ignore_glob = (
    [] if (Path(__file__).parent.parent.parent / "benchmarks").is_dir() else ["test_*.py"]
)
