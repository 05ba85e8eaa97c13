"""Check that the installed distribution holds the package `flowstate`, all of it and nothing else.

Usage: check_wheel.py TREE, by an interpreter into which only the wheel was installed.
"""

import importlib
import importlib.metadata
import sys
import tomllib
from pathlib import Path

SUFFIXES = {".json", ".lua", ".py", ".sql", ".typed"}
IMPORTS = (
    "flowstate",
    "flowstate.drivers.memory",
    "flowstate.drivers.sqlite",
    "flowstate.recovery",
    "flowstate.testcases",
    "flowstate.testing",
)
NEED_AN_EXTRA = {
    "flowstate.drivers.postgres": "flowstate-engine[postgres]",
    "flowstate.drivers.redis": "flowstate-engine[redis]",
    "flowstate.engines.logic": "flowstate-engine[workflow]",
    "flowstate.engines.tasks": "flowstate-engine[tasks]",
}


def installed_files() -> set[str]:
    """Name every file of the distribution but its metadata and bytecode."""
    files = importlib.metadata.files("flowstate-engine") or []
    names = {path.as_posix() for path in files if path.suffix != ".pyc"}
    return {name for name in names if ".dist-info/" not in name}


def expected_files(tree: Path) -> set[str]:
    """Name every file of the tree that belongs into the package, as it is called there."""
    settings = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"flowstate": "flowstate", **settings["package-dir"]}
    return {
        f"{package.replace('.', '/')}/{path.relative_to(tree / folder).as_posix()}"
        for package, folder in folders.items()
        for path in (tree / folder).rglob("*")
        if path.suffix in SUFFIXES
    }


def check_that_it_asks_for(extra: str, name: str) -> None:
    """Stop unless importing a module fails, and says which extra is missing."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        if extra not in str(error):
            sys.exit(f"{name} does not ask for {extra}: {error}")
    else:
        sys.exit(f"{name} was imported without {extra}")


def main(tree: Path) -> None:
    """Stop with a message at the first thing that is not as it should be."""
    installed, expected = installed_files(), expected_files(tree)
    if installed != expected:
        missing, foreign = sorted(expected - installed), sorted(installed - expected)
        sys.exit(f"missing in the wheel: {missing}\nforeign in the wheel: {foreign}")
    for name in IMPORTS:
        origin = importlib.import_module(name).__file__
        if origin is None or not Path(origin).is_relative_to(sys.prefix):
            sys.exit(f"{name} was imported from {origin}, not from the wheel")
    for name, extra in NEED_AN_EXTRA.items():
        check_that_it_asks_for(extra, name)
    print(f"{len(installed)} files, {len(IMPORTS)} imports, {len(NEED_AN_EXTRA)} refused")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
