"""Expressions without processes of their own."""

import attrs

from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.expressions.pool import Pool
from flowstate.engines.expressions.worker import Evaluator, loaded, replied

__all__ = ["InProcessExpressions"]


@attrs.define(eq=False)
class InProcessExpressions(Expressions):
    """Evaluates jq in this process, at once; for tests of expressions that are your own.

    An expression may read the environment and files here, take any time and memory, and stop
    the event loop.
    """

    _evaluators: dict[str, Evaluator] = attrs.field(factory=dict, init=False)

    async def _reply(self, pool: Pool, program: str, request: bytes) -> bytes:  # noqa: ARG002
        path = pool.program.evaluator
        if path not in self._evaluators:
            self._evaluators[path] = loaded(path, self.result, self.results)
        return replied(self._evaluators[path], request)
