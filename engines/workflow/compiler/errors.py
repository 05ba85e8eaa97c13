"""What a definition is refused for."""

import ast
from collections.abc import Iterable

from msgspec import Struct

from flowstate import FlowstateError

__all__ = ["CompileError", "Problem", "Problems"]


class Problem(Struct, frozen=True, order=True):
    """One thing in a definition that cannot be compiled.

    Attributes:
        file: of the source.
        line: in it, from 1.
        definition: the name of the function.
        name: what it is about: a name in the source, or a kind of statement.
        reason: why it is refused.
        fix: what to write instead.
    """

    file: str
    line: int
    definition: str
    name: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.definition}: {self.name}: {self.reason}; {self.fix}"


class CompileError(FlowstateError):
    """A definition cannot be compiled; has every problem of it.

    Attributes:
        problems: by line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """Collects the problems of one definition, so that all are told at once."""

    def __init__(self, file: str, definition: str) -> None:
        self._file = file
        self._definition = definition
        self._found: set[Problem] = set()

    def add(self, at: ast.AST | int, name: str, reason: str, fix: str) -> None:
        """Add a problem at a line, or where a node begins."""
        line = at if isinstance(at, int) else getattr(at, "lineno", 0)
        self._found.add(Problem(self._file, line, self._definition, name, reason, fix))

    def check(self) -> None:
        """Raise ``CompileError`` if there are any."""
        if self._found:
            raise CompileError(self._found)
