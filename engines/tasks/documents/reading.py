"""Reads YAML 1.2 (and so JSON) as JSON, with the line of each value."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import yaml
from yaml import events

from flowstate.engines.tasks.errors import Problem
from flowstate.engines.tasks.pointers import pointer_of

__all__ = ["Source", "read"]

MOST_BYTES = 1_048_576
MOST_LEVELS = 100
MOST_NODES = 100_000  # Keys and values; lists and objects count twice, by their two ends.
MOST_PLACES = 16_777_216  # Characters of the JSON pointers of all values.
MOST_DIRECTIVES = 16  # The parser compares each with all others.
MOST_PROBLEMS = 200
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
CONSTANTS |= {each.upper(): value for each, value in CONSTANTS.items()}
CONSTANTS |= {each.capitalize(): value for each, value in CONSTANTS.items()}
INTEGER = re.compile(r"[-+]?[0-9]{1,20}|0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16}")
NOT_JSON = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
NUMBER = re.compile(rf"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|{NOT_JSON.pattern}")
ESCAPE = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\.")
SURROGATE = re.compile("[\ud800-\udfff]")
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # Of the integers that the store takes.


@attrs.frozen
class Source:
    """What a text says.

    Attributes:
        value: as JSON.
        lines: from 1, by JSON pointer.
        problems: with the text; if there are any, ``value`` is not to be used.
    """

    value: Any
    lines: Mapping[str, int]
    problems: list[Problem]


class _RefusedError(Exception):
    """The rest of a text is not read."""


def read(text: str) -> Source:
    """Read a text, and say all that is wrong with it."""
    reader = _Reader()
    try:
        if len(text.encode()) > MOST_BYTES:
            raise _RefusedError("a document has at most 1 MiB")
        if text.count("\n%") > MOST_DIRECTIVES:
            raise _RefusedError(f"a document has at most {MOST_DIRECTIVES} lines that begin with %")
        for event in yaml.parse(_as_yaml(text), Loader):
            reader.take(event)
    except UnicodeEncodeError:
        reader.refuse("the text is no Unicode")
    except _RefusedError as error:
        reader.refuse(str(error))
    except yaml.YAMLError as error:
        reader.line = _line_of(error, text)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "")
        reader.refuse(f"this is not YAML: {problem}")
    if not (reader.problems or reader.lines):
        reader.refuse("the document is empty")
    return Source(reader.value, reader.lines, sorted(reader.problems))


def _as_yaml(text: str) -> str:
    """Return JSON without its tabs, and with characters for pairs of surrogates, as YAML has it."""
    if text.lstrip()[:1] not in {"{", "["}:
        return text
    return ESCAPE.sub(lambda each: _joined(each) if each[1] else each[0], text.replace("\t", " "))


def _joined(pair: re.Match[str]) -> str:
    high, low = int(pair[1], 16), int(pair[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:08x}"


def _line_of(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Reader:
    """Makes JSON of the events of a parser; an alias is read by taking its events once more."""

    def __init__(self) -> None:
        self.value: Any = None
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.line = 1
        self.open: list[dict[str, Any] | list[Any]] = []
        self.path: list[str | int] = []
        self.key: str | None = None
        self.taken: list[events.NodeEvent | events.CollectionEndEvent] = []
        self.anchors: dict[str, tuple[int, int]] = {}
        self.unfinished: list[tuple[str | None, int]] = []
        self.left = MOST_PLACES

    def refuse(self, text: str) -> None:
        self.problems.append(Problem(self.line, pointer_of(self.path), text))

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, events.DocumentStartEvent) and self.lines:
            self.line = _line(event)
            raise _RefusedError("a file has one document; remove what begins with ---")
        if len(self.problems) > MOST_PROBLEMS:
            raise _RefusedError("there is more that is wrong")
        if isinstance(event, events.AliasEvent):
            self.line = _line(event)
            for each in self._copies(event.anchor):
                self._node(each)
        elif isinstance(event, events.NodeEvent | events.CollectionEndEvent):
            self._node(event)

    def _copies(self, anchor: str | None) -> Iterator[Any]:
        if anchor is None or anchor not in self.anchors:
            raise _RefusedError(f"the alias *{anchor} stands for nothing, or for itself")
        return (self.taken[index] for index in range(*self.anchors[anchor]))

    def _node(self, event: Any) -> None:
        start = len(self.taken)
        self.taken.append(event)
        if start > MOST_NODES:
            raise _RefusedError("a document has at most 100,000 values, those of aliases included")
        if isinstance(event, events.CollectionEndEvent):
            self.open.pop()
            del self.path[len(self.open) :]
            self._finish(*self.unfinished.pop())
            return
        self.line = _line(event)
        if event.tag is not None and event.tag != "!":
            self.refuse(f"tags such as {event.tag} have no meaning here")
        if isinstance(event, events.ScalarEvent):
            self._scalar(event)
            self._finish(event.anchor, start)
        else:
            value: Any = {} if isinstance(event, events.MappingStartEvent) else []
            self._put(value)
            self.open.append(value)
            self.unfinished.append((event.anchor, start))
            if len(self.open) > MOST_LEVELS:
                raise _RefusedError("a document has at most 100 levels")

    def _finish(self, anchor: str | None, start: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (start, len(self.taken))

    def _scalar(self, event: events.ScalarEvent) -> None:
        text = event.value
        if not text.isascii() and SURROGATE.search(text):
            self.refuse("the text is no Unicode")
        if self.open and isinstance(self.open[-1], dict) and self.key is None:
            self._set_key(text, is_plain=event.implicit[0])
        else:
            self._put(self._resolved(text) if event.implicit[0] else text)

    def _set_key(self, key: str, *, is_plain: bool) -> None:
        self.path[len(self.open) - 1 :] = [key]
        if key == "<<" and is_plain:
            self.refuse("YAML 1.2 has no merge key <<; use an alias for a whole value")
        elif key in self.open[-1]:
            self.refuse(f"the key {key!r} stands here twice")
        self.key = key
        self._place()

    def _put(self, value: Any) -> None:
        if not self.open:
            self.value = value
        elif isinstance(parent := self.open[-1], list):
            self.path[len(self.open) - 1 :] = [len(parent)]
            parent.append(value)
        elif self.key is None:
            raise _RefusedError("a key is a text, not a list or an object")
        else:
            parent[self.key], self.key = value, None
        self._place()

    def _place(self) -> None:
        place = pointer_of(self.path)
        self.left -= len(place)
        if self.left < 0:
            self.path = []
            raise _RefusedError("the keys of the document are too long for how deep they are")
        self.lines.setdefault(place, self.line)

    def _resolved(self, text: str) -> Any:
        if text in CONSTANTS:
            return CONSTANTS[text]
        if INTEGER.fullmatch(text):
            number = int(text, 0 if text[:2] in {"0o", "0x"} else 10)
            if SMALLEST <= number <= LARGEST:
                return number
        if NUMBER.fullmatch(text):
            value = float("nan" if NOT_JSON.fullmatch(text) else text)
            if math.isfinite(value) and not text.lstrip("+-").isdigit():
                return value
            self.refuse(f"{text[:40]} is no number of JSON in 64 bits; put quotes around a text")
        return text
