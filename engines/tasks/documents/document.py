"""A document that was read and checked."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from flowstate.ground.frozen import EMPTY

__all__ = ["Document"]


@attrs.frozen(eq=False)
class Document:
    """A document that can be run; immutable, so all instances of it can share it.

    Attributes:
        kind: the form in which it is written.
        namespace: of the document.
        name: of the document.
        version: a semantic version.
        content: as JSON, in the form that is run: that of the Open Workflow DSL. A machine is
            translated into it.
        source: as JSON, in the form in which it is written.
        text: as it was given.
        lines: of the text, from 1, by the JSON pointers of ``content``.
    """

    kind: Literal["workflow", "machine"]
    namespace: str
    name: str
    version: str
    content: Mapping[str, Any]
    source: Mapping[str, Any]
    text: str
    lines: Mapping[str, int]

    @property
    def key(self) -> str:
        """What names it: ``namespace/name:version``."""
        return f"{self.namespace}/{self.name}:{self.version}"

    def used(self, kind: str) -> Mapping[str, Any]:
        """Return what is in ``use`` of a kind, by name; of ``secrets``, only a list of names."""
        return (self.content.get("use") or EMPTY).get(kind) or EMPTY
