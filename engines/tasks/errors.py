"""Errors of tasks, as problem details; and what is wrong with a document."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from msgspec import Struct

from flowstate import FlowstateError
from flowstate.ground.frozen import EMPTY

__all__ = ["DocumentError", "Problem", "STANDARD", "TaskError", "error_type", "same_type"]

BASE = "https://open-workflow-specification.org/spec/1.0.0/errors/"
BASES = re.compile(  # The specification has been renamed, and its examples write it otherwise.
    r"https://(?:serverlessworkflow\.io|open-workflow-specification\.org)"
    r"/(?:spec/1\.0\.0/errors|dsl/errors/types)/"
)
MOST_LISTS = 200  # And objects in ``extra``: however they are nested, they are not too deep.
MOST_EXTRA = 6_000  # Bytes; with its texts, it is what the kernel stores of an error.

STANDARD = {
    "configuration": 400,
    "validation": 400,
    "expression": 400,
    "authentication": 401,
    "authorization": 403,
    "timeout": 408,
    "communication": 500,
    "runtime": 500,
}
"""The kinds of errors that the specification names, and the status of each."""


class TaskError(Exception):
    """A task has failed; the fields of problem details (RFC 9457).

    Attributes:
        type: a URI; see :func:`error_type`.
        status: as of HTTP.
        title: what kind of problem it is, for people.
        detail: what happened this time, for people.
        instance: the JSON pointer of the task that raised it.
        extra: further fields.

    What would be too large to be stored is cut; of ``extra``, all is left out. NUL is replaced.
    """

    def __init__(  # noqa: PLR0917 - the fields of problem details, which it keeps as its args
        self,
        type: str,  # noqa: A002 - as they call it
        status: int,
        title: str = "",
        detail: str = "",
        instance: str = "",
        extra: Mapping[str, Any] = EMPTY,
    ) -> None:
        self.type, self.status = _cut(type, 1_000), status
        self.title, self.detail = _cut(title, 1_000), _cut(detail, 4_000)
        self.instance = _cut(instance, 2_000)
        super().__init__(self.type, status, self.title, self.detail, self.instance)
        raw = msgspec.json.encode(extra)
        if len(raw) > MOST_EXTRA or raw.count(b"[") + raw.count(b"{") > MOST_LISTS:
            raw = b"{}"
        self.extra: dict[str, Any] = msgspec.json.decode(raw.replace(b"\\u0000", b"\\ufffd"))

    def __str__(self) -> str:
        kind = self.type.rpartition("/")[2]
        return ": ".join(filter(None, [f"{kind} {self.status}", self.title, self.detail]))

    @classmethod
    def of(cls, kind: str, detail: str = "", *, status: int = 0, title: str = "") -> "TaskError":
        """Return an error of a kind in ``STANDARD``."""
        title = title or f"{kind.capitalize()} error"
        return cls(error_type(kind), status or STANDARD[kind], title, detail)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TaskError":
        """Return the error that problem details describe.

        Raises:
            TypeError: a field is no text.
        """
        own = ("type", "status", "title", "detail", "instance")
        known = {key: value[key] for key in own if value.get(key) is not None}
        extra = {key: each for key, each in value.items() if key not in own}
        return cls(**{"type": "about:blank", "status": 500, **known}, extra=extra)

    def to_json(self) -> dict[str, Any]:
        """Return it as problem details."""
        fields = {"type": self.type, "status": self.status, "title": self.title}
        fields |= {"detail": self.detail, "instance": self.instance}
        return {**{key: each for key, each in fields.items() if each != ""}, **self.extra}


def _cut(text: str, most: int) -> str:
    """Return as much of a text as has at most so many bytes in JSON."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.100} is no text")
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if 2 * len(text) <= most and text.isascii() and text.isprintable():
        return text  # Also if all of it were quotes.
    text = text.encode(errors="replace")[:most].decode(errors="ignore")
    return text if len(msgspec.json.encode(text)) <= most + 2 else text[: most // 6]


def error_type(kind: str) -> str:
    """Return the URI of a kind in ``STANDARD``."""
    return BASE + kind


def same_type(one: str, other: str) -> bool:
    """Return whether two URIs name one type: the specification has several spellings of its own."""
    return BASES.sub(BASE, one, 1) == BASES.sub(BASE, other, 1)


class Problem(Struct, frozen=True, order=True):
    """Something wrong with a document.

    Attributes:
        line: from 1.
        path: JSON pointer of what is wrong.
        text: for people.
    """

    line: int
    path: str
    text: str


@attrs.define(eq=False)
class DocumentError(FlowstateError):
    """A document is refused.

    Attributes:
        file: where it is from; empty if that is not known.
        problems: all that is wrong with it, in the order of its lines.
    """

    file: str
    problems: Sequence[Problem]

    def __str__(self) -> str:
        place = f"{self.file or 'document'}:"
        return "\n".join(f"{place}{each.line}: {each.path}: {each.text}" for each in self.problems)
