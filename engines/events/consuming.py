"""Which events are wanted, and when there are enough of them."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct

from flowstate.engines.events.cloud_event import text_of
from flowstate.engines.events.publishing import FOUND_BY, MORE
from flowstate.engines.expressions.errors import ExpressionError

__all__ = ["Evaluate", "Filter", "Key", "Strategy", "is_true"]

logger = logging.getLogger("flowstate.engines")

PATH = re.compile(r"\s*\.((data\.)?[A-Za-z_]\w*)\s*")
NOT_FOUND_BY = {"id", "time", "data", "data_base64", "datacontenttype", "dataschema", "specversion"}
MOST_FIELDS = 8  # By which one strategy looks for events; with more it looks at all.

Evaluate = Callable[[str, Any], Awaitable[Any]]
"""Returns what an expression makes of a value, or raises ``ExpressionError``."""


def is_true(value: Any) -> bool:
    """Return whether jq takes a value for true."""
    return value is not None and value is not False


class Key(Struct, frozen=True, omit_defaults=True):
    """A value by which events belong together.

    Attributes:
        program: an expression over the event.
        expect: what it must give; unset: what it gave first.
    """

    program: str
    expect: Any = UNSET


class Filter(Struct, frozen=True, omit_defaults=True):
    """Which events are wanted; the stored form. All conditions have to hold.

    Attributes:
        equal: what attributes are. An object among it, such as the data, may be a part of what the
            event has.
        like: regular expressions for whole attributes.
        tests: expressions over attributes or the data: they give true, or what is to be there.
        keys: by name, what the event must have in common with others.
    """

    equal: Mapping[str, Any] = msgspec.field(default_factory=dict)
    like: Mapping[str, str] = msgspec.field(default_factory=dict)
    tests: Mapping[str, str] = msgspec.field(default_factory=dict)
    keys: Mapping[str, Key] = msgspec.field(default_factory=dict)

    async def meets(
        self, event: Mapping[str, Any], known: dict[str, Any], evaluate: Evaluate
    ) -> bool:
        """Return whether an event is wanted.

        Args:
            event: its form in JSON.
            known: keys that are known already; those of a wanted event are added.
            evaluate: evaluates expressions. An event for which one fails is not wanted.
        """
        if not all(_fits(event.get(name), each, name) for name, each in self.equal.items()):
            return False
        try:
            for name, pattern in self.like.items():
                if not await _is_like(event.get(name), pattern, evaluate):
                    return False
            for name, program in self.tests.items():
                if not await _holds(event, name, program, evaluate):
                    return False
            found = {name: await evaluate(key.program, event) for name, key in self.keys.items()}
        except ExpressionError as error:
            logger.info("an event %r is not counted: %s", event.get("id"), error)
            return False
        for name, value in found.items():
            expected = self._expected(name, known)
            if value is None or not _is_same(value, value if expected is UNSET else expected):
                return False
        known.update(found)
        return True

    def _expected(self, name: str, known: Mapping[str, Any]) -> Any:
        expect = self.keys[name].expect
        return known.get(name, UNSET) if expect is UNSET else expect

    def found_by(self, known: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Return the field by which the fewest events are found; ``None``: all must be looked at.

        Args:
            known: keys that are known already.
        """
        data = self.equal.get("data")
        fields = {name: each for name, each in self.equal.items() if name not in NOT_FOUND_BY}
        fields |= {f"data.{k}": each for k, each in data.items()} if isinstance(data, dict) else {}
        for name, key in self.keys.items():
            path, expected = PATH.fullmatch(key.program), self._expected(name, known)
            if path and path[1] not in NOT_FOUND_BY and expected is not UNSET:
                fields[path[1]] = expected
        plain = {name: each for name, each in fields.items() if type(each) in (str, int, float)}
        if not plain:
            return None
        name = min(plain, key=lambda name: (_rank(name), name))
        return name, plain[name] if name.startswith("data.") else text_of(plain[name])


class Strategy(Struct, omit_defaults=True):
    """When there are enough events, and how far that has come; the stored form.

    Attributes:
        kind: one event for each of the filters, or an event for any of them.
        filters: of the events. Without any, ``any`` takes all events.
        met: the filters for which there is an event.
        until: of ``any``: go on until this one is met, whose events are not wanted themselves.
        until_program: of ``any``: go on until this expression over the array of events is true.
    """

    kind: Literal["all", "any"]
    filters: list[Filter]
    met: list[int] = msgspec.field(default_factory=list)
    until: "Strategy | None" = None
    until_program: str = ""

    async def offer(
        self, event: Mapping[str, Any], known: dict[str, Any], evaluate: Evaluate
    ) -> Literal["", "wanted", "until"]:
        """Return whether an event is wanted, and note it; see :meth:`Filter.meets`."""
        if self.until is not None and await self.until.offer(event, known, evaluate):
            return "until"
        if self.kind == "any" and not self.filters:
            self.met = [0]
            return "wanted"
        for number, each in enumerate(self.filters):
            if (self.kind == "any" or number not in self.met) and await each.meets(
                event, known, evaluate
            ):
                self.met = [*self.met, number] if self.kind == "all" else [number]
                return "wanted"
        return ""

    async def is_met(self, events: list[Any], evaluate: Evaluate) -> bool:
        """Return whether there are enough events.

        Args:
            events: those that were wanted, as ``until_program`` gets them.
            evaluate: evaluates it.

        Raises:
            ExpressionError: it fails.
        """
        if self.kind == "all":
            return len(self.met) == len(self.filters)
        if self.until is not None:
            return await self.until.is_met([], evaluate)
        if self.until_program:
            return bool(events) and is_true(await evaluate(self.until_program, events))
        return bool(self.met)

    def found_by(self, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return fields of which each wanted event has one; none: all must be looked at."""
        strategies = [self] if self.until is None else [self, self.until]
        if any(each.kind == "any" and not each.filters for each in strategies):
            return []
        found = [one.found_by(known) for each in strategies for one in each.filters]
        fields = list(dict.fromkeys(each for each in found if each is not None))
        if None in found or len(fields) > MOST_FIELDS:
            return []
        return [*fields, *([MORE] if any(name not in FOUND_BY for name, _ in fields) else [])]


def _rank(name: str) -> int:
    """Return how many events have one value in a field, more or less."""
    usual = ("subject", "type", "source")
    return usual.index(name) + 1 if name in usual else 0


def _fits(value: Any, wanted: Any, name: str) -> bool:
    """Return whether an attribute is as wanted; numbers and bools of headers come as texts."""
    if name == "data" or value is None:
        return _has(value, wanted)
    return text_of(value) == text_of(wanted)


def _has(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        own = value if isinstance(value, Mapping) else {}
        return isinstance(value, Mapping) and all(
            name in own and _has(own[name], each) for name, each in wanted.items()
        )
    return _is_same(value, wanted)


def _is_same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


async def _is_like(value: Any, pattern: str, evaluate: Evaluate) -> bool:
    """Return whether a text is, or looks like, a pattern; it is tried where it can be killed."""
    if value is None or value == pattern:
        return value is not None
    literal = msgspec.json.encode(f"^(?:{pattern})$").decode()
    return is_true(await evaluate(f"tostring | test({literal})", value))


async def _holds(event: Mapping[str, Any], name: str, program: str, evaluate: Evaluate) -> bool:
    value = event.get(name)
    if value is None and name != "data":
        return False
    found = await evaluate(program, value)
    return found if isinstance(found, bool) else found is not None and _fits(value, found, name)
