"""Which files the job takes, and how their paths become text that every store can keep."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

__all__ = ["Selection", "name_of", "path_from", "standard_library"]

SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
MAX_NAME_BYTES = 512


class Selection(Struct, frozen=True):
    """The files below a folder, hidden ones and links to folders left out.

    Attributes:
        folder: where to look; absolute.
        database: the file that the job is stored in, which is no part of its own input.
        library: whether to take a library's sources only: ``*.py``.
    """

    folder: Path
    database: Path
    library: bool = False

    def paths(self) -> Iterator[Path]:
        """Find the files, always in the same order."""
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(
                f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(".")
            )
            for path in (Path(folder, name) for name in sorted(names)):
                if self._wants(path) and _is_file(path):
                    yield path

    def _wants(self, path: Path) -> bool:
        if path.name.startswith(".") or (self.library and path.suffix != ".py"):
            return False
        beside = path.parent == self.database.parent
        return not (beside and path.name.startswith(self.database.name))


def standard_library(database: Path) -> Selection:
    """Select the sources of the running Python's own standard library."""
    return Selection(Path(sysconfig.get_paths()["stdlib"]).resolve(), database, library=True)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()  # Follows links; one that leads nowhere or in a circle is no file.
    except OSError:
        return False


def name_of(path: Path, folder: Path) -> str:
    """Return the path below ``folder``; a digest when it is too long or no valid Unicode."""
    raw = os.fsencode(path.relative_to(folder))
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = ""
    return name if name and len(raw) <= MAX_NAME_BYTES else hashlib.sha256(raw).hexdigest()


def path_from(uri: str) -> Path:
    """Return the path of which ``uri`` is the ``as_uri()``."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
