"""What can be wrong with an expression."""

from flowstate import FlowstateError

__all__ = ["ExpressionError"]


class ExpressionError(FlowstateError):
    """An expression cannot be compiled, has failed, or took too much time or memory.

    Attributes:
        program: the expression.
    """

    def __init__(self, program: str, text: str) -> None:
        super().__init__(f"{text}: {program[:200]}")
        self.program = program
