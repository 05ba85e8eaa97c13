"""Versions of a definition: frames of older ones are made such as the present one needs."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from msgspec.structs import replace

from flowstate.engines.kernel.code import At, Frame, MisfitError, Reached
from flowstate.engines.kernel.values import kept

__all__ = ["Upgrade", "Versions"]

Upgrade = Callable[[dict[str, Any], int], Mapping[str, Any]]
"""Is given values by name and the version that has stored them; returns those of today."""


@attrs.frozen
class Versions:
    """The version of a definition, and what makes the values of older versions fit.

    Attributes:
        version: of the definition; 0: it does not count them.
        upgrade: changes values of older versions.
    """

    version: int = 0
    upgrade: Upgrade | None = None

    def stamped(self, reached: Reached) -> Reached:
        """Let a new frame have the version."""
        if not self.version or not isinstance(reached, At):
            return reached
        return At(replace(reached.frame, version=self.version))

    def upgraded(self, frame: Frame) -> Frame:
        """Return a frame with the values that this version needs.

        Raises:
            MisfitError: a newer version has stored it, or ``upgrade`` fails.
        """
        if frame.version == self.version or not frame.stop:
            return frame
        if frame.version > self.version:
            text = f"version {frame.version} has stored this, and here is {self.version}"
            raise MisfitError(f"{frame.code}: {text}")
        if self.upgrade is None:
            return frame
        try:
            values = {name: msgspec.json.decode(raw) for name, raw in frame.names.items()}
            made = self.upgrade(values, frame.version)
            names = {name: kept(f"values[{name!r}]", value) for name, value in made.items()}
        except Exception as error:
            text = f"cannot be upgraded from version {frame.version}: {error!r}"
            raise MisfitError(f"{frame.code}: {text}") from error
        return replace(frame, names=names, version=self.version)
