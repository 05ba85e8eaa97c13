"""What a definition may not have, wherever its stops are."""

import ast
import builtins

from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.finding import NO_MANAGER
from flowstate.engines.workflow.compiler.lookup import Lookup
from flowstate.engines.workflow.compiler.scope import names_of
from flowstate.engines.workflow.compiler.stops import Stops

__all__ = ["refuse"]

LOOKS = ("locals", "eval", "exec", "vars", "dir")


def refuse(node: ast.AsyncFunctionDef, stops: Stops, lookup: Lookup, problems: Problems) -> None:
    """Add to the problems what a function may not have."""
    _refuse_parameters(node, problems)
    for each in ast.walk(node):
        match each:
            case ast.Call(func=ast.Name(id=name)) if name in LOOKS:
                if lookup.value(each.func) is vars(builtins)[name]:
                    reason = "sees names that the compiler has put there"
                    problems.add(each, f"{name}()", reason, "name the values that it is to see")
            case ast.ExceptHandler(name=str(name)) if stops.below(*each.body):
                if name in names_of(*each.body).binds:
                    reason = "is bound again within its except, which has a stop"
                    problems.add(each, name, reason, "use another name there")
    for each in node.body:
        _refuse_statements(each, problems)


def _refuse_parameters(node: ast.AsyncFunctionDef, problems: Problems) -> None:
    args = node.args
    for each in (args.vararg, args.kwarg):
        if each:
            reason = "cannot be stored by name"
            problems.add(each, f"*{each.arg}", reason, "write out the parameters")
    positional = [*args.posonlyargs, *args.args]
    if not positional:
        problems.add(node, node.name, "has no parameter", "take the data of the instance first")
    elif positional[0].arg in names_of(*node.body).binds:
        reason = "is the data, which all threads share"
        problems.add(node, positional[0].arg, reason, "change its attributes; do not bind the name")


def _refuse_statements(node: ast.AST, problems: Problems) -> None:
    """Refuse statements of the function itself; nested functions may have them."""
    match node:
        case ast.AsyncWith():
            problems.add(node, "async with", *NO_MANAGER)
        case ast.AsyncFor():
            problems.add(node, "async for", "would wait without a stop", "do it in a step")
        case ast.comprehension(is_async=1):
            problems.add(node.iter, "async for", "would wait without a stop", "do it in a step")
        case ast.Nonlocal():
            reason = "is shared with the function around, and would not be stored"
            problems.add(node, ", ".join(node.names), reason, "keep it in the data")
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef():
            return
    for child in ast.iter_child_nodes(node):
        _refuse_statements(child, problems)
