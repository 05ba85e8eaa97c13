"""Evaluates jq; a worker loads it as a file, so it imports nothing of flowstate."""

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

__all__ = ["Evaluator"]

MOST_PROGRAMS = 1_000  # Compiled ones that are kept: each has some ten kilobytes.
MOST_DEPTH = 200
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BRACKET = re.compile(r"[\[\]{}]")
PLACE = re.compile(r" at <top-level>, line (\d+)(, column \d+)?:?")


class Evaluator:
    """Compiles and evaluates programs.

    Args:
        result: bytes that the results of one program may have.
        results: how many results one program may give.
    """

    def __init__(self, result: int, results: int) -> None:
        self._compile: Callable[[str], Any] = import_module("jq").compile  # It has no types.
        self._result, self._results = result, results
        self._programs: dict[tuple[bytes, bytes], Any] = {}

    def evaluate(self, prologue: bytes, program: bytes, given: bytes) -> bytes:
        """Return the results, as ``worker.Evaluator`` says."""
        compiled = self._program((prologue, program))
        return self._results_of(compiled.input_text(given.decode())) if given else b"null"

    def _program(self, key: tuple[bytes, bytes]) -> Any:
        compiled = self._programs.pop(key, None)
        if compiled is None:
            compiled = self._compiled(*(each.decode() for each in key))
            if len(self._programs) >= MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
        self._programs[key] = compiled
        return compiled

    def _compiled(self, prologue: str, program: str) -> Any:
        try:
            compiled = self._compile(f"{prologue}(\n{program}\n\n)|tojson")
            # A program that closes one kind of bracket to get out cannot close the other kind.
            self._compile(f"{prologue}[\n{program}\n\n]")
        except ValueError as error:
            raise ValueError(_explained(str(error), program.count("\n") + 1)) from None
        return compiled

    def _results_of(self, texts: Iterable[str]) -> bytes:
        found: list[bytes] = []
        size = 0
        for text in texts:
            _check_depth(text)
            found.append(text.encode())
            size += len(found[-1]) + 1
            if size > self._result:
                raise ValueError(f"gives more than {self._result} bytes")
            if len(found) > self._results:
                raise ValueError(f"gives more than {self._results} results")
        if len(found) == 1:
            return found[0]
        return b"[" + b",".join(found) + b"]" if found else b"null"


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for bracket in BRACKET.finditer(STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MOST_DEPTH:
            raise ValueError(f"gives a value that is nested more than {MOST_DEPTH} deep")


def _explained(text: str, lines: int) -> str:
    """Return what jq says without its pictures, with lines of the program itself."""

    def place(found: re.Match[str]) -> str:
        line = int(found[1]) - 1
        return f" at line {line}{found[2] or ''}" if line <= lines else " at the end"

    start = "jq: error: "
    found = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
    return PLACE.sub(place, "; ".join(found) or text)
