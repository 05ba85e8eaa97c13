"""Errors of tasks, as problem details; and what is wrong with a document."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from msgspec import Struct

from flowstate import FlowstateError
from flowstate.ground.frozen import EMPTY

__all__ = ["STANDARD", "DocumentError", "Problem", "TaskError", "error_type", "same_type"]

BASE = "https://openworkflow.io/spec/1.0.0/errors/"
FIRST_BASE = "https://serverlessworkflow.io/spec/1.0.0/errors/"

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
        super().__init__(type, status, title, detail, instance)
        self.type, self.status = type, status
        self.title, self.detail, self.instance = title, detail, instance
        self.extra = dict(extra)

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
        """Return the error that problem details describe."""
        own = ("type", "status", "title", "detail", "instance")
        known = {key: value[key] for key in own if value.get(key) is not None}
        extra = {key: each for key, each in value.items() if key not in own}
        return cls(**{"type": "about:blank", "status": 500, **known}, extra=extra)

    def to_json(self) -> dict[str, Any]:
        """Return it as problem details."""
        fields = {"type": self.type, "status": self.status, "title": self.title}
        fields |= {"detail": self.detail, "instance": self.instance}
        return {**{key: each for key, each in fields.items() if each != ""}, **self.extra}


def error_type(kind: str) -> str:
    """Return the URI of a kind in ``STANDARD``."""
    return BASE + kind


def same_type(one: str, other: str) -> bool:
    """Return whether two URIs name one type: the specification has renamed its own in 2026."""
    return one.replace(FIRST_BASE, BASE, 1) == other.replace(FIRST_BASE, BASE, 1)


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
