"""Evaluates expressions."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from flowstate.ground.frozen import EMPTY

__all__ = ["Expressions"]


class Expressions:
    """A pool of processes that evaluate jq."""

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    async def evaluate(self, program: str, value: Any, variables: Mapping[str, Any] = EMPTY) -> Any:
        """Return what an expression makes of a value."""
        raise NotImplementedError

    async def check(self, program: str, variables: Sequence[str] = ()) -> None:
        """Refuse an expression that cannot be compiled."""
        raise NotImplementedError
