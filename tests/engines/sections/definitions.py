"""What the tests of sections run."""

from typing import Any

import msgspec

from flowstate.engines.workflow.sections import (
    Break,
    Case,
    Default,
    For,
    Go,
    If,
    On,
    Return,
    S,
    Sections,
    Step,
    Switch,
    Wait,
    WaitFor,
)

__all__ = [
    "Data",
    "Note",
    "add",
    "branches",
    "broken",
    "handled",
    "looped",
    "noted",
    "sub",
    "threads",
]


class Data(msgspec.Struct):
    log: str = ""
    n: int = 0
    threads: dict[str, int] = {}


class Note(msgspec.Struct):
    text: str
    n: int = 0


def add(text: str) -> Any:
    """Return a step that adds a text to the log."""

    def call(data: Data) -> None:
        data.log += text

    return call


async def count(data: Data) -> None:
    data.n += 1


def noted(data: Data, note: Note) -> Note:
    """Write a note into the log, and answer with it."""
    data.log += note.text
    return note


handled = Sections(
    "handled",
    Data,
    Step("start", add("s")),
    Wait("wait", On("note", noted, Step("after", add("a")))),
)
looped = Sections(
    "looped",
    Data,
    For(
        lambda s: s.n < 2,
        Wait("wait", On("note", noted, Step("after", add("a")), Step("count", count))),
    ),
)
broken = Sections(
    "broken",
    Data,
    For(
        lambda _: True,
        If(lambda s: s.n == 2, Break()),
        Wait("wait", On("note", noted, Step("after", add("a")), Step("count", count))),
    ),
)
branches = Sections(
    "branches",
    Data,
    If(lambda s: s.log != "", Step("no", add("no"))).Else(Step("else", add("e"))),
    Switch(Case(lambda s: s.log == "x", Step("x", add("x"))), Case(lambda s: s.n > 0, Return())),
    Step("empty", lambda s: setattr(s, "log", "")),
    If(lambda s: s.log == "", Step("b", add("b"))).ElseIf(lambda _: True, Step("c", add("c"))),
    Switch(
        Case(lambda s: s.log == "c", Return("wrong")),
        Case(lambda s: s.log == "b", Step("b2", add("b")), Wait("in case", On("note", noted))),
        Default(Return("default")),
    ),
    Return(lambda s: s.log),
)


def begin(data: Data) -> None:
    data.threads[f"t{len(data.threads)}"] = 0
    data.n += 1


def work(data: Data) -> None:
    data.threads[min(name for name, done in data.threads.items() if not done)] = 1
    data.n -= 1


threads = Sections(
    "threads",
    Data,
    For(
        lambda s: len(s.threads) < 5,
        Step("begin", begin),
        Go("go", Step("work", work), thread=lambda s: f"t{len(s.threads)}"),
    ),
    WaitFor("all", lambda s: s.n == 0, lambda s: setattr(s, "log", "all")),
    Wait("main", On("note", noted)),
)


def part(prefix: str, *inner: Any) -> S:
    """Return statements whose names begin with a prefix."""
    return S(Step(f"{prefix}2", add("2")), *inner, Step(f"{prefix}3", add("3")))


sub = Sections(
    "sub",
    Data,
    Step("1", add("1")),
    part("a", Step("a3b", add("3"))),
    part("b", S(S(Step("d", add("3")))), If(lambda _: False, part("e"))),
    Return(lambda s: s.log),
    gives=str,
)
