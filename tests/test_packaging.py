"""pyproject.toml names every package and every data file that the tree has."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parent.parent
DATA_SUFFIXES = {".lua", ".sql", ".typed"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def listed(project: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = project["tool"]["setuptools"]
    return settings


def files(listed: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Each file below the package folders, with the package its own folder would be."""
    for package, folder in {"flowstate": "flowstate", **listed["package-dir"]}.items():
        for path in (ROOT / folder).rglob("*"):
            inner = path.parent.relative_to(ROOT / folder).parts
            yield ".".join((package, *inner)), path


def is_packaged(package: str, path: Path, patterns: dict[str, list[str]]) -> bool:
    """Whether package-data of the package, or of one that holds its folder, names the file."""
    name = path.name
    while package:
        if any(Path(name).match(p) for p in patterns["*"] + patterns.get(package, [])):
            return True
        package, _, folder = package.rpartition(".")
        name = f"{folder}/{name}"
    return False


def test_lists_the_packages_of_the_tree(listed: dict[str, Any]) -> None:
    packages = {package for package, path in files(listed) if path.suffix == ".py"}

    assert listed["packages"] == sorted(packages)


def test_every_package_has_an_init(listed: dict[str, Any]) -> None:
    folders = {path.parent for _, path in files(listed) if path.suffix == ".py"}

    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_lists_the_data_files_of_the_tree(listed: dict[str, Any]) -> None:
    patterns = listed["package-data"]
    data = {path: package for package, path in files(listed) if path.suffix in DATA_SUFFIXES}

    assert [
        path for path, package in data.items() if not is_packaged(package, path, patterns)
    ] == []
    assert ROOT / "flowstate" / "py.typed" in data


def test_puts_one_name_at_the_top_level(listed: dict[str, Any]) -> None:
    assert {package.partition(".")[0] for package in listed["packages"]} == {"flowstate"}


def test_needs_attrs_and_msgspec_and_nothing_else(project: dict[str, Any]) -> None:
    names = [each.partition(">")[0] for each in project["project"]["dependencies"]]

    assert names == ["attrs", "msgspec"]
