"""Problems that machines know by their codes, and what becomes of them."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from flowstate import InvalidInputError, RetryPolicy
from flowstate.engines.kernel.errors import (
    Cancelled,
    ChildFailed,
    InstanceCancelledError,
    InstanceFailedError,
    StepFailed,
    text_of,
)

__all__ = ["NextError", "ONCE", "Problem", "Retry", "catcher_of", "of_several", "problem_of"]

EXCEEDED = "retries.exceeded"
ONCE = RetryPolicy(attempts=1)


class Problem(Exception):  # noqa: N818 - as they call it
    """Something that can go wrong, with a code by which it is caught.

    A state raises it, and so can what a state runs. Every other error of that has the code
    ``error.<class>``.

    Attributes:
        code: such as ``bank.refused``.
        text: for people.
        failed: of what has run in parallel: ``index``, ``code`` and ``text`` of all that failed.
    """

    def __init__(self, code: str, text: str = "", failed: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(code, text, failed)
        self.code, self.text, self.failed = code, text, list(failed)

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class NextError(Exception):
    """A state function has returned what a machine cannot do."""


class Retry(Struct, frozen=True, omit_defaults=True):
    """Which problems of a step or a subflow are worth another attempt, and when.

    Attributes:
        codes: globs over codes.
        attempts: how many there are in all. What is exhausted has the code ``retries.exceeded``.
        first: seconds of the first pause.
        factor: by which each pause is longer than the one before.
        longest: seconds of the longest pause.

    Raises:
        InvalidInputError: a bad value; names it.
    """

    codes: Sequence[str] = ("*",)
    attempts: int = 3
    first: float = 5.0
    factor: float = 1.0
    longest: float = 3600.0

    def __post_init__(self) -> None:
        _ = self.policy
        if isinstance(self.codes, str):
            raise InvalidInputError("codes", "must be a list of texts")

    @property
    def policy(self) -> RetryPolicy:
        """The policy of a step."""
        return RetryPolicy(
            attempts=self.attempts,
            first=self.first,
            factor=self.factor,
            longest=self.longest,
            jitter=False,
            on=self.meets,
        )

    def meets(self, error: BaseException) -> bool:
        """Return whether an error is worth another attempt."""
        return _is_any(problem_of(error).code, self.codes)


def _is_any(code: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(code, each) for each in globs)


def catcher_of(code: str, *catchers: Mapping[str, str]) -> str | None:
    """Return the state that catches a code: the first glob of the first mapping that matches."""
    found = (to for each in catchers for glob, to in each.items() if fnmatchcase(code, glob))
    return next(found, None)


def problem_of(error: BaseException, retry: Retry | None = None) -> Problem:
    """Return the problem that an error is: what a step, or a subflow, has raised first.

    Args:
        error: as the kernel gives it.
        retry: after which it was given up.
    """
    inner = error
    while isinstance(inner, (StepFailed, ChildFailed, InstanceFailedError)) and inner.__cause__:
        inner = inner.__cause__
    if isinstance(inner, Problem):
        found = inner
    elif isinstance(inner, (Cancelled, InstanceCancelledError)):
        found = Problem("cancelled", text_of(inner))
    else:
        found = Problem(f"error.{type(inner).__name__}", text_of(inner))
    if retry is not None and _is_any(found.code, retry.codes):
        found = Problem(EXCEEDED, f"{retry.attempts} attempts, the last one: {found}", found.failed)
    return found


def of_several(failed: Sequence[Mapping[str, Any]], total: int) -> Problem:
    """Return the problem that several are, with the code of the first."""
    if total == 1:
        return Problem(failed[0]["code"], failed[0]["text"], failed)
    names = "; ".join(f"[{each['index']}] {each['code']}: {each['text']}" for each in failed)
    text = f"{len(failed)} of {total} failed: {names}"
    return Problem(failed[0]["code"], text[:1_000], failed)
