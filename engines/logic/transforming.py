"""Transforms values by jq."""

from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from flowstate import FlowRegistry
from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.logic.problems import Problem

__all__ = ["transformed", "use_expressions"]

_by_flows: WeakKeyDictionary[FlowRegistry, Expressions] = WeakKeyDictionary()


def use_expressions(flows: FlowRegistry, expressions: Expressions) -> None:
    """Let machines whose flows are in a registry evaluate expressions by these."""
    _by_flows[flows] = expressions


async def transformed(kind: Any, values: Any, program: str, result: Any) -> Any:
    """Return the values that a program makes of values; without a program the same.

    Raises:
        Problem: ``transform``: the program fails, or gives what is not of their type.
        LookupError: the client was given no expressions.
    """
    if not program:
        return values
    engine = current_step().engine
    expressions = _by_flows.get(engine.flows)
    if expressions is None:
        raise LookupError("transform= needs Machines(engine, machines, expressions=Expressions())")
    try:
        plain, variables = msgspec.to_builtins(values), {"result": msgspec.to_builtins(result)}
        with engine.clock.working():
            found = await expressions.evaluate(program, plain, variables)
        return msgspec.convert(found, kind)
    except (ExpressionError, msgspec.ValidationError) as error:
        raise Problem("transform", str(error)) from error
