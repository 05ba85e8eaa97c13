"""Expressions in jq, evaluated in processes that can be killed."""

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.expressions.in_process import InProcessExpressions

__all__ = ["ExpressionError", "Expressions", "InProcessExpressions"]
