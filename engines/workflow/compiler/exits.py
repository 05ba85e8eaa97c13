"""Marks the ways out of a region whose ``finally`` has stops, so that they can be taken again."""

import ast
from typing import Any

from flowstate.engines.workflow.compiler.nodes import visit

__all__ = ["mark_exits"]


def mark_exits(region: list[ast.stmt], number: int) -> set[str]:
    """Mark each ``return``, ``break`` and ``continue`` that leaves a region; return their kinds.

    The region is rewritten already: how inner ones are left again is marked, too.
    """
    marker = _Marker(number)
    region[:] = marker.all(region)
    return marker.found


class _Marker(ast.NodeTransformer):
    def __init__(self, number: int) -> None:
        self.found: set[str] = set()
        self._number = number
        self._loops = 0

    def all(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Mark some statements."""
        made: list[ast.stmt] = []
        for each in body:
            found = self.visit(each)
            made += found if isinstance(found, list) else [found]
        return made

    def visit(self, node: ast.AST) -> Any:
        is_apart = isinstance(
            node, ast.expr | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        )
        return node if is_apart else super().visit(node)

    def visit_Return(self, node: ast.Return) -> Any:
        self.found.add("return")
        value = node.value or ast.Constant(None)
        made = visit("leave", self._number, "return", value)
        return ast.copy_location(ast.Return(ast.copy_location(made, node.value or node)), node)

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
