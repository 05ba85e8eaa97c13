"""Random sections do what a plain interpreter of the same statements does."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flowstate.engines.kernel.code import At, Frame, Raised
from flowstate.engines.kernel.operations import Gave, Run
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.workflow.section_code import LoopError
from flowstate.engines.workflow.sections import (
    Break,
    Case,
    Continue,
    Default,
    For,
    If,
    Return,
    S,
    Sections,
    Statement,
    Step,
    Switch,
)
from flowstate.values import encoded


class State(msgspec.Struct):
    n: int = 1
    fuel: int = 40
    log: list[str] = []


class Program:
    """Statements drawn by chance."""

    def __init__(self, seed: int) -> None:
        self._rng, self._names = random.Random(seed), iter(range(10_000))
        self.body = S(*(self._block(4, loop=False) for _ in range(2)))

    def _block(self, depth: int, *, loop: bool) -> S:
        return S(*(self._statement(depth, loop) for _ in range(self._rng.randint(0, 4))))

    def _statement(self, depth: int, loop: bool) -> Statement:  # noqa: PLR0911 - many kinds
        kinds = [*["step"] * 5, "return"] + ["break", "continue"] * loop
        kinds += ["if", "switch", "for", "for", "for", "s"] * (depth > 0)
        match self._rng.choice(kinds):
            case "step":
                return self._step()
            case "return":
                return If(self._condition(), Return(lambda s: s.n))
            case "break":
                return self._rng.choice([Break(), If(self._condition(), Break())])
            case "continue":
                return self._rng.choice([Continue(), If(self._condition(), Continue())])
            case "s":
                return self._block(depth - 1, loop=loop)
            case "for":
                burning = self._condition()
                again = lambda s: s.fuel > 0 and burning(s)  # noqa: E731 - it is data
                return For(again, self._block(depth - 1, loop=True))
            case "if":
                some = If(self._condition(), self._block(depth - 1, loop=loop))
                other = some.ElseIf(self._condition(), self._block(depth - 1, loop=loop))
                return other.Else(self._block(depth - 1, loop=loop))
        cases = [self._condition() for _ in range(2)]
        blocks = [Case(each, self._block(depth - 1, loop=loop)) for each in cases]
        last = [Default(self._block(depth - 1, loop=loop))] * self._rng.randint(0, 1)
        return Switch(*blocks, *last)

    def _condition(self) -> Callable[[State], bool]:
        of, rest = self._rng.randint(2, 4), self._rng.randint(0, 1)
        return lambda s: s.n % of != rest

    def _step(self) -> Step:
        name, by, more = f"s{next(self._names)}", self._rng.randint(2, 9), self._rng.randint(0, 9)

        def call(data: State) -> None:
            data.n, data.fuel = (data.n * by + more) % 97, data.fuel - 1
            data.log.append(name)

        return Step(name, call)


class Plainly:
    """Interprets statements."""

    def __init__(self) -> None:
        self.data, self.stops = State(), 0

    def do(self, statement: Any) -> Any:
        """Do a statement; return what leaves it early, if anything does."""
        match statement:
            case Step():
                self.stops += 1
                statement.call(self.data)
            case Break() | Continue() | Return():
                return statement
            case Switch():
                chosen = (each for each in statement.cases if each.condition(self.data))
                return self.do(next(chosen, Default()).body)
            case For():
                return self._loop(statement)
            case S():
                for each in statement.statements:
                    if (left := self.do(each)) is not None:
                        return left
        return None

    def _loop(self, loop: For) -> Any:
        while loop.condition(self.data):
            before = self.stops
            left = self.do(loop.body)
            if isinstance(left, Break):
                return None
            if isinstance(left, Return):
                return left
            if self.stops == before:
                raise LoopError
        return None


def came_out(body: S) -> Any:
    """Return how plain statements end."""
    plain = Plainly()
    try:
        left = plain.do(body)
    except LoopError:
        return LoopError, plain.data
    return (left.value(plain.data) if left else None), plain.data


def entered(body: S) -> Any:
    """Return how sections end that are entered at each stop with what is stored there."""
    code = Sections("it", State, body)
    data, reached = State(), code.begin(Frame("it"), State())
    while isinstance(reached, At):
        frame = msgspec.json.decode(msgspec.json.encode(reached.frame), type=Frame)
        code.check(frame)
        run = code.ask(frame, data)
        assert isinstance(run, Run)
        gave = decoded(run.options.gives, encoded("result", run.call()))
        reached = code.go_on(frame, data, Gave(gave))
        data = decoded(State, encoded("data", data))
    if isinstance(reached, Raised):
        return type(reached.error), data
    return reached.value, data


@pytest.mark.parametrize("part", range(4))
def test_they_end_alike(part: int) -> None:
    ends = []
    for seed in range(part * 500, part * 500 + 500):
        body = Program(seed).body
        expected = came_out(body)
        assert entered(body) == expected, seed
        ends.append(expected)
    assert sum(len(data.log) > 5 for _, data in ends) > 50
    assert any(end is LoopError for end, _ in ends)
