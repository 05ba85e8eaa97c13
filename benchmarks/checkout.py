"""The library of one checkout under the workloads of this one."""

import tomllib
from pathlib import Path

__all__ = ["CheckoutError", "link"]

ROOT = Path(__file__).parent.parent
OURS = ("benchmarks", "tests")
PACKAGE = "flowstate"


class CheckoutError(Exception):
    """There is no such checkout."""


def link(checkout: Path, folder: Path) -> None:
    """Fill a folder from which Python imports that checkout's library and these benchmarks.

    The checkout itself stays as it is: parts of the package lie outside of it, and a fresh one
    lacks the links to them.

    Raises:
        CheckoutError: there is no library.
    """
    checkout = checkout.resolve()
    package = folder / PACKAGE
    package.mkdir()
    for name, source in _parts(checkout).items():
        (package / name).symlink_to(source)
    for name in OURS:
        (folder / name).symlink_to(ROOT.resolve() / name)


def _parts(checkout: Path) -> dict[str, Path]:
    """Return what belongs into the package, by name."""
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text())
        folders = project["tool"]["setuptools"]["package-dir"]
        inside = {path.name: path for path in (checkout / PACKAGE).iterdir()}
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise CheckoutError(f"no checkout of {PACKAGE} at {checkout}: {error!r}") from error
    inside.pop("__pycache__", None)
    outside = {name.removeprefix(f"{PACKAGE}."): checkout / path for name, path in folders.items()}
    return inside | outside
