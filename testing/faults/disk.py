"""A disk that is soon full."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["SmallDisk"]


class SmallDisk:
    """A file system of its own, in memory, below a new folder; a context manager.

    Only for Linux, and for root, or who may mount.

    Args:
        folder: made and removed again.
        size: in bytes; the system rounds it up to whole pages.
        user: id of the user who owns it; this process's by default.
        group: id of the group.

    Attributes:
        folder: as given.

    Raises:
        PermissionError: when it is entered: it must not be mounted here.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int,
        *,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._size = size
        self._user = os.geteuid() if user is None else user
        self._group = os.getegid() if group is None else group

    def __enter__(self) -> Self:
        self.folder.mkdir()
        try:
            owner = f"mode=0700,uid={self._user},gid={self._group}"
            self._mount("-t", "tmpfs", "-o", f"size={self._size},{owner}", "none")
        except BaseException:
            self.folder.rmdir()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A server that is about to stop may still have files open there.
        subprocess.run(["umount", "--lazy", self.folder], check=True)  # noqa: S603, S607
        self.folder.rmdir()

    def resize(self, size: int) -> None:
        """Make it larger, or as small as what is on it lets it be."""
        self._mount("-o", f"remount,size={size}")

    def _mount(self, *options: str) -> None:
        command = ["mount", *options, str(self.folder)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        except FileNotFoundError as error:
            raise PermissionError("there is no program to mount a file system with") from error
        if done.returncode:
            raise PermissionError(f"cannot mount a file system: {done.stderr.strip()}")
