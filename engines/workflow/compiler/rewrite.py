"""Rewrites a function so that it can be entered at each of its stops.

While it is entered, ``.to`` is the number of the stop that it goes to: what has no stop is gone
past, and conditions lead to the stop. There ``.to`` becomes 0, and the function runs as it was
written. While it is left at a stop, ``.to`` is negative, and ``except`` and ``finally`` do nothing.
"""

import ast
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from flowstate.engines.workflow.compiler.exits import mark_exits
from flowstate.engines.workflow.compiler.loops import LoopKind
from flowstate.engines.workflow.compiler.nodes import (
    VISIT,
    any_error,
    assign,
    attribute,
    both,
    either,
    entering,
    given,
    guarded,
    has_case,
    idle,
    load,
    never,
    store,
    take_names,
    visit,
)
from flowstate.engines.workflow.compiler.stops import MarkCall, Stops
from flowstate.engines.workflow.marking import Point

__all__ = ["Rewriter"]


class Rewriter:
    """Rewrites one function.

    Attributes:
        points: what is known about the calls of marks, by the numbers that the new code uses.
    """

    def __init__(self, stops: Stops, loops: Mapping[ast.For, LoopKind]) -> None:
        self.points: list[Point] = []
        self._stops = stops
        self._below = stops.below
        self._loops = loops
        self._levels = {level.node: level.number for s in stops.all for level in s.levels}
        self._cases = 0

    def function(
        self, node: ast.AsyncFunctionDef, data: str, names: Collection[str]
    ) -> ast.AsyncFunctionDef:
        """Rewrite a function; its only argument is then the visit.

        Args:
            node: the function.
            data: the name of the first parameter.
            names: that are stored at any stop, and parameters.
        """
        head = [ast.copy_location(each, node) for each in take_names(data, sorted(names))]
        node.args = ast.arguments([], [ast.arg(VISIT)], None, [], [], None, [])
        node.body = [*head, *self._block(node.body)]
        return node

    def _block(self, body: Iterable[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        run: list[ast.stmt] = []
        for statement in body:
            if not self._below(statement):
                run.append(statement)
                continue
            made += [guarded(idle(), run)] if run else []
            made += [ast.copy_location(each, statement) for each in self._statement(statement)]
            run = []
        return made + ([guarded(idle(), run)] if run else [])

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.If():
                return [
                    ast.If(self._condition(node), self._block(node.body), self._block(node.orelse))
                ]
            case ast.While():
                test = self._condition(node)
                return [ast.While(test, self._block(node.body), self._block(node.orelse))]
            case ast.For():
                return [self._for(node)]
            case ast.Try():
                return [guarded(self._here(node), self._try(node), node)]
            case ast.Match():
                return self._match(node)
        return [guarded(self._here(node), [self._expression(node)], node)]

    def _here(self, *nodes: ast.AST) -> ast.expr:
        """Return whether some nodes are to be evaluated: it runs, or is being entered there."""
        return either(idle(), entering(self._below(*nodes)))

    def _condition(self, node: ast.If | ast.While) -> ast.expr:
        test = both(self._here(node.test), self._expression(node.test))
        return ast.copy_location(either(entering(self._below(*node.body)), test), node.test)

    def _expression(self, node: Any) -> Any:
        return _Expressions(self._stops, self._operation).visit(node)

    def _operation(self, call: MarkCall) -> ast.expr:
        """Return the call of a mark with what is known about it."""
        for each in call.all:
            node, number = each.node, ast.Constant(len(self.points))
            self.points.append(each.point)
            made = ast.Attribute(node.func, "operation", ast.Load())
            node.func = ast.copy_location(made, node.func)
            node.args.insert(0, ast.Subscript(attribute("points"), number, ast.Load()))
            node.keywords = [each for each in node.keywords if each.arg != "name"]
        return call.node

    def _for(self, node: ast.For) -> ast.stmt:
        over, orelse = self._expression(node.iter), self._block(node.orelse)
        here, inner = self._here(node.iter), self._below(*node.body)
        if not inner:
            over = ast.copy_location(ast.IfExp(here, over, never()), node.iter)
            return ast.For(node.target, over, node.body, orelse)
        number = self._levels[node]
        read = [node.iter] if self._loops[node].stores == "position" else []
        over = ast.IfExp(here, visit("over", number, over), never())
        over = ast.IfExp(entering(inner), visit("again", number, *read), over)
        item = f".item{number}"
        take = ast.copy_location(ast.Assign([node.target], load(item)), node.target)
        body = [guarded(idle(), [take]), *self._block(node.body)]
        return ast.For(store(item), ast.copy_location(over, node.iter), body, orelse)

    def _try(self, node: ast.Try) -> list[ast.stmt]:
        inner = self._below(*node.finalbody)
        if not inner:
            final = [guarded(idle(), node.finalbody)] if node.finalbody else []
            return [self._caught(node, final)]
        number = self._levels[node]
        region = [self._caught(node, [])] if node.handlers else self._block(node.body)
        exits = mark_exits(region, number)
        body = ast.If(entering(inner), _resumed(number, exits), _watched(region, number))
        arrived = ast.If(entering(inner), [ast.Expr(visit("restore"))], [])
        return [ast.Try([body], [], [], [arrived, *self._block(node.finalbody)])]

    def _caught(self, node: ast.Try, final: list[ast.stmt]) -> ast.stmt:
        rethrown: list[ast.stmt] = []
        handlers = []
        for handler in node.handlers:
            inner = self._below(*handler.body)
            kind = handler.type or any_error()
            others: ast.expr = never()
            body = [ast.Expr(visit("restore")), *handler.body]
            if inner:
                number = self._levels[handler]
                rethrown.append(ast.If(entering(inner), [ast.Expr(visit("rethrow", number))], []))
                others = ast.IfExp(entering(inner), any_error(), never())
                body = [ast.Expr(visit("caught", number)), *self._block(handler.body)]
            ast.copy_location(body[0], handler)
            made = ast.ExceptHandler(ast.IfExp(idle(), kind, others), handler.name, body)
            handlers.append(ast.copy_location(made, handler))
        body = [*rethrown, *self._block(node.body)]
        return ast.Try(body, handlers, self._block(node.orelse), final)

    def _match(self, node: ast.Match) -> list[ast.stmt]:
        self._cases += 1
        name = f".case{self._cases}"
        bodies: list[tuple[int, Sequence[ast.stmt], ast.match_case]] = []
        for number, case in enumerate(node.cases, 1):
            bodies.append((number, case.body, case))
            case.body = [ast.copy_location(assign(name, ast.Constant(number)), case.pattern)]
        here = self._here(node.subject)
        node.subject = self._expression(node.subject)
        rest: list[ast.stmt] = []
        for number, body, case in reversed(bodies):
            test = either(entering(self._below(*body)), has_case(name, number))
            chosen = ast.If(test, self._block(body), rest)
            rest = [ast.copy_location(chosen, case.pattern)]
        return [guarded(here, [assign(name, ast.Constant(0)), node], node), *rest]


class _Expressions(ast.NodeTransformer):
    """Replaces the stop in an expression, and leads conditions to it."""

    def __init__(self, stops: Stops, operation: Callable[[MarkCall], ast.expr]) -> None:
        self._stops = stops
        self._operation = operation

    def visit(self, node: ast.AST) -> Any:
        if (stop := self._stops.at(node)) is not None:
            return given(stop, self._operation(stop.call))
        if not self._stops.below(node):
            return node
        if isinstance(node, ast.BoolOp | ast.IfExp):
            self._lead(node)
        return self.generic_visit(node)

    def _lead(self, node: ast.BoolOp | ast.IfExp) -> None:
        """Go past what is evaluated before the stop when the function is entered there."""
        parts = node.values if isinstance(node, ast.BoolOp) else [node.test, node.body, node.orelse]
        at = next(index for index, each in enumerate(parts) if self._stops.below(each))
        here = entering(self._stops.below(node))
        not_here = ast.UnaryOp(ast.Not(), here)
        if isinstance(node, ast.IfExp):
            tests = (node.test, either(here, node.test), both(not_here, node.test))
            node.test = ast.copy_location(tests[at], node.test)
        elif at:
            first = parts[0] if at == 1 else ast.BoolOp(node.op, parts[:at])
            is_and = isinstance(node.op, ast.And)
            first = either(here, first) if is_and else both(not_here, first)
            node.values[:at] = [ast.copy_location(first, node)]


def _watched(region: list[ast.stmt], number: int) -> list[ast.stmt]:
    """Return a region that notes how it is left."""
    failed = guarded(idle(), [ast.Expr(visit("failed", number))], region[0])
    handler = ast.ExceptHandler(any_error(), None, [failed, ast.Raise()])
    ended = guarded(idle(), [ast.Expr(visit("leave", number, "next"))], region[-1])
    return [ast.Try(region, [handler], [], []), ended]


def _resumed(number: int, exits: Collection[str]) -> list[ast.stmt]:
    """Return what leaves a region again as it was left before."""
    made: list[ast.stmt] = [ast.Expr(visit("rethrow", number))]
    ways: dict[str, ast.stmt] = {
        "return": ast.Return(visit("returned", number)),
        "break": ast.Break(),
        "continue": ast.Continue(),
    }
    return made + [ast.If(visit("left_by", number, n), [ways[n]], []) for n in sorted(exits)]
