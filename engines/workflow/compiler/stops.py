"""The stops of a function: what is known about them, and where they are."""

import ast
from collections.abc import Iterator, Sequence

import attrs

from flowstate.engines.workflow.marking import Defined, Mark, Point

__all__ = ["FoundStop", "Level", "MarkCall", "Stops"]


@attrs.frozen(eq=False)
class Level:
    """A statement around a stop that is part of the place.

    Attributes:
        number: differs for every level of the function.
        key: what the place calls it, as ``Stop.levels`` says.
        node: the ``for``, the ``except``, or the ``try`` with a ``finally``.
    """

    number: int
    key: str
    node: ast.For | ast.ExceptHandler | ast.Try


@attrs.frozen(eq=False)
class MarkCall:
    """The call of a mark: a stop, or a branch of one.

    Attributes:
        node: the call.
        mark: what is called.
        point: for the running code; its type is set later.
        target: the code that it names, if it names one.
        branches: of a join.
    """

    node: ast.Call
    mark: Mark
    point: Point
    target: Defined | None
    branches: Sequence["MarkCall"]

    @property
    def all(self) -> Iterator["MarkCall"]:
        """It and its branches."""
        yield self
        for branch in self.branches:
            yield from branch.all


@attrs.frozen(eq=False)
class FoundStop:
    """A stop.

    Attributes:
        number: from 1, in the order of the source.
        node: the ``await``, or the call of ``go``.
        call: of the mark.
        levels: around it, from the outside in.
    """

    number: int
    node: ast.Await | ast.Call
    call: MarkCall
    levels: tuple[Level, ...]

    @property
    def name(self) -> str:
        """Its name, unique in the function."""
        return self.call.point.name


class Stops:
    """The stops of a function, and where they are.

    Attributes:
        all: in the order of the source.
    """

    def __init__(self) -> None:
        self.all: list[FoundStop] = []
        self._of: dict[ast.AST, FoundStop] = {}
        self._below: dict[ast.AST, tuple[FoundStop, ...]] = {}

    def add(self, stop: FoundStop) -> None:
        """Add one."""
        self.all.append(stop)
        self._of[stop.node] = stop

    def at(self, node: ast.AST) -> FoundStop | None:
        """Return the stop that is exactly this node."""
        return self._of.get(node)

    def below(self, *nodes: ast.AST) -> tuple[FoundStop, ...]:
        """Return the stops within some nodes."""
        if len(nodes) == 1:
            return self._below.get(nodes[0], ())
        return tuple(stop for node in nodes for stop in self._below.get(node, ()))

    def settle(self, node: ast.AST) -> tuple[FoundStop, ...]:
        """Note for each node within one which stops it has, so that ``below`` knows them."""
        found: tuple[FoundStop, ...] = (self._of[node],) if node in self._of else ()
        for child in ast.iter_child_nodes(node):
            found += self.settle(child)
        if found:
            self._below[node] = found
        return found
