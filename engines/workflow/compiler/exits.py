"""Marks the ways out of a ``try`` whose ``finally`` has stops, so that they can be taken again."""

import ast
from typing import Any

from flowstate.engines.workflow.compiler.nodes import visit
from flowstate.engines.workflow.compiler.stops import Stops

__all__ = ["mark_exits"]


def mark_exits(node: ast.Try, number: int, stops: Stops) -> set[str]:
    """Mark each ``return``, ``break`` and ``continue`` that leaves a region; return their kinds."""
    marker = _Marker(number, stops)
    node.body, node.orelse = marker.all(node.body), marker.all(node.orelse)
    for each in node.handlers:
        marker.visit(each)
    return marker.found


class _Marker(ast.NodeTransformer):
    def __init__(self, number: int, stops: Stops) -> None:
        self.found: set[str] = set()
        self._number = number
        self._stops = stops
        self._loops = 0

    def visit_Return(self, node: ast.Return) -> Any:
        self.found.add("return")
        value = node.value or ast.Constant(None)
        made = visit("leave", self._number, "return", value)
        self._stops.wrap(value, made)
        node.value = ast.copy_location(made, node.value or node)
        return node

    def visit_Break(self, node: ast.Break | ast.Continue) -> Any:
        if self._loops:
            return node
        kind = "break" if isinstance(node, ast.Break) else "continue"
        self.found.add(kind)
        marked = ast.Expr(visit("leave", self._number, kind))
        return [ast.copy_location(marked, node), node]

    visit_Continue = visit_Break

    def visit_For(self, node: ast.For | ast.While) -> Any:
        self._loops += 1
        node.body = self.all(node.body)
        self._loops -= 1
        node.orelse = self.all(node.orelse)
        return node

    visit_While = visit_For

    def all(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Mark some statements."""
        made: list[ast.stmt] = []
        for each in body:
            found = self.visit(each)
            made += found if isinstance(found, list) else [found]
        return made

    def visit_FunctionDef(self, node: ast.AST) -> Any:
        return node

    visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = visit_FunctionDef
