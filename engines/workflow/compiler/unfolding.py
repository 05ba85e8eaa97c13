"""Unfolds each ``async with`` into a stop that enters, and a ``try`` with one that leaves."""

import ast
from copy import deepcopy
from typing import Any

from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.nodes import load, store, visit
from flowstate.engines.workflow.compiler.scope import names_of

__all__ = ["unfold"]


def unfold(node: ast.AsyncFunctionDef, problems: Problems) -> None:
    """Unfold what a function enters; calls of what is no manager are refused as stops are."""
    _Unfolder(problems).generic_visit(node)


class _Unfolder(ast.NodeTransformer):
    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def visit(self, node: ast.AST) -> Any:
        scopes = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr
        return node if isinstance(node, scopes) else super().visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> list[ast.stmt]:
        self.generic_visit(node)
        body = node.body
        for item in reversed(node.items):
            body = self._unfolded(item, body, node)
        return body

    def _unfolded(
        self, item: ast.withitem, body: list[ast.stmt], at: ast.AsyncWith
    ) -> list[ast.stmt]:
        call = item.context_expr
        if not isinstance(call, ast.Call):
            return [ast.copy_location(ast.AsyncWith([item], body), at)]
        name = _name_of(call)
        held = self._held(item.optional_vars, name, body)
        others = [each for each in call.keywords if each.arg != "name"]
        entered = _called(call.func, "enter", call.args, others, name)
        failed = visit("left_by", 0, "raise")
        left = _called(call.func, "leave", [load(held), failed], [], f"{name}-leave")
        again = ast.Try(body, [], [], [ast.Expr(left)])
        again.level = failed.args[0]  # type: ignore[attr-defined] # set when that is known
        made = [ast.Assign([store(held)], entered), again]
        return [ast.fix_missing_locations(ast.copy_location(each, at)) for each in made]

    def _held(self, target: ast.expr | None, name: str, body: list[ast.stmt]) -> str:
        """Return the name of what is entered."""
        if target is None:
            return f".{name}"
        if isinstance(target, ast.Name) and target.id not in names_of(*body).binds:
            return target.id
        reason = "is what the async with is left with, so it must stay one name"
        fix = "write a name after as, and do not bind it within"
        self._problems.add(target, ast.unparse(target), reason, fix)
        return f".{name}"


def _name_of(call: ast.Call) -> str:
    """Return the name of the stop; what is no literal is refused as that of any stop."""
    for each in call.keywords:
        if each.arg == "name":
            return str(getattr(each.value, "value", ast.unparse(each.value)))
    return ast.unparse(call.func).rpartition(".")[2]


def _called(
    manager: ast.expr, what: str, args: list[ast.expr], keywords: list[ast.keyword], name: str
) -> ast.Await:
    sub, code = (ast.Attribute(deepcopy(manager), each, ast.Load()) for each in ("sub", what))
    keywords = [*keywords, ast.keyword("name", ast.Constant(name))]
    awaited = ast.Await(ast.Call(sub, [code, *args], keywords))
    awaited.is_with = True  # type: ignore[attr-defined] # for a problem with it
    return awaited
