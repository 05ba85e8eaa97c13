"""Pieces of syntax that the compiler puts into a function."""

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from flowstate.engines.workflow.compiler.stops import FoundStop

__all__ = [
    "any_error",
    "assign",
    "both",
    "either",
    "entering",
    "given",
    "guarded",
    "has_case",
    "idle",
    "load",
    "never",
    "store",
    "take_names",
    "visit",
]

# No name of the user's can have a dot.
TO, VISIT, NAMES = ".to", ".visit", ".names"
LEAVING = -1


def load(name: str) -> ast.Name:
    """Return the value of a name."""
    return ast.Name(name, ast.Load())


def store(name: str) -> ast.Name:
    """Return a name as a target."""
    return ast.Name(name, ast.Store())


def assign(name: str, value: ast.expr) -> ast.stmt:
    """Return an assignment."""
    return ast.Assign([store(name)], value)


def attribute(name: str) -> ast.expr:
    """Return an attribute of the visit."""
    return ast.Attribute(load(VISIT), name, ast.Load())


def visit(method: str, *args: Any) -> ast.expr:
    """Return a call of a method of the visit."""
    nodes = [each if isinstance(each, ast.expr) else ast.Constant(each) for each in args]
    return ast.Call(attribute(method), nodes, [])


def any_error() -> ast.expr:
    """Return the class of all errors."""
    return attribute("error_class")


def never() -> ast.expr:
    """Return what is empty: no item, no class of errors."""
    return ast.Tuple([], ast.Load())


def idle() -> ast.expr:
    """Return whether the function runs: it is not being entered or left."""
    return ast.UnaryOp(ast.Not(), load(TO))


def entering(stops: Sequence[FoundStop]) -> ast.expr:
    """Return whether the function is being entered at one of some stops."""
    numbers: list[ast.expr] = [ast.Constant(stop.number) for stop in stops]
    if not numbers:
        return ast.Constant(False)
    if len(numbers) == 1:
        return ast.Compare(load(TO), [ast.Eq()], numbers)
    return ast.Compare(load(TO), [ast.In()], [ast.Set(numbers)])


def either(*tests: ast.expr) -> ast.expr:
    """Return ``a or b``, without what is never true."""
    known = [test for test in tests if not isinstance(test, ast.Constant) or test.value]
    return known[0] if len(known) == 1 else ast.BoolOp(ast.Or(), known)


def both(*tests: ast.expr) -> ast.expr:
    """Return ``a and b``."""
    return ast.BoolOp(ast.And(), list(tests))


def has_case(name: str, number: int) -> ast.expr:
    """Return whether a ``match`` has taken a case."""
    return both(idle(), ast.Compare(load(name), [ast.Eq()], [ast.Constant(number)]))


def guarded(test: ast.expr, body: list[ast.stmt], at: ast.AST | None = None) -> ast.stmt:
    """Return ``if test: body``."""
    return ast.copy_location(ast.If(test, body, []), at or body[0])


def given(stop: FoundStop, operation: ast.expr) -> ast.expr:
    """Return what takes the place of a stop."""
    leave = ast.NamedExpr(store(TO), ast.UnaryOp(ast.USub(), ast.Constant(-LEAVING)))
    asked = ast.Await(visit("asked", operation, leave))
    arrive = ast.NamedExpr(store(TO), ast.Constant(0))
    entered = ast.IfExp(attribute("asks"), asked, visit("arrive", arrive))
    parked = ast.Await(visit("park", stop.number, leave))
    return ast.copy_location(ast.IfExp(entering([stop]), entered, parked), stop.node)


def take_names(data: str, names: Iterable[str]) -> list[ast.stmt]:
    """Return what binds names when the function is entered."""
    body = [assign(TO, attribute("to")), assign(data, attribute("data"))]
    body.append(assign(NAMES, attribute("names")))
    for name in names:
        is_there = ast.Compare(ast.Constant(name), [ast.In()], [load(NAMES)])
        value = ast.Subscript(load(NAMES), ast.Constant(name), ast.Load())
        body.append(ast.If(is_there, [assign(name, value)], []))
    return body
