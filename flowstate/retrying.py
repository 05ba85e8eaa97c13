"""What becomes of a flow that has failed: the policy, and what it decides."""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from random import Random
from typing import Any, Literal, TypedDict

import attrs
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import Value, exact
from flowstate.ground.limits import MAX_NOTE_BYTES, check_id
from flowstate.ground.options import check_count, check_seconds, count, flag, seconds
from flowstate.recovery_rules import MOST_ATTEMPTS, read_count

__all__ = [
    "ERROR",
    "FAILED",
    "FAILURES",
    "Kind",
    "Outcome",
    "Override",
    "POLICY",
    "Policy",
    "PolicyChanges",
    "RetryPolicy",
    "SHORTEST_TIMEOUT",
    "decide",
    "failures_of",
    "overridden",
    "read_override",
    "text_of",
    "without_failures",
]

logger = logging.getLogger("flowstate.engine")

POLICY = "flowstate.policy"  # An annotation of a state: what it overrides, as JSON.
FAILURES = "flowstate.failures"  # Annotations of a transition: how many, since the step began;
ERROR = "flowstate.error"  # the last error;
FAILED = "flowstate.failed"  # and the flows whose ``on_failure`` has led here, as JSON.

MOST_TEXT = MAX_NOTE_BYTES // 8  # Characters of an error; each may take six bytes in JSON.
SHORTEST_TIMEOUT = 0.001

Kind = type[Exception] | Callable[[Exception], bool]
"""Tells errors apart: a class of them, or what returns whether one is meant."""


def _kinds(kinds: Any) -> tuple[Any, ...]:
    return kinds if type(kinds) is tuple else tuple(kinds) if type(kinds) is list else (kinds,)


def _are_kinds(_: object, field: Any, kinds: tuple[Any, ...]) -> None:
    for kind in kinds:
        if not (issubclass(kind, Exception) if isinstance(kind, type) else callable(kind)):
            reason = "must be subclasses of Exception, or functions that take an error"
            raise InvalidInputError(field.name, reason)


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and after which pauses, a flow is executed again that has failed.

    The pause before attempt ``n + 1`` is ``first * factor ** (n - 1)`` seconds, but not longer
    than ``longest``. With jitter it is drawn between 0 and that, so that those that failed
    together do not come back together. An error that has an attribute ``retry_after``, in seconds
    or as a ``timedelta``, says itself how long to wait.

    Args:
        attempts: how many executions there are in all.
        first: seconds of the first pause.
        factor: by which each pause is longer than the one before, from 1.
        longest: seconds of the longest pause.
        jitter: draw each pause.
        on: classes of errors, or functions that take an error and return whether it is worth
            another attempt. One of them must say so.
        never: the same, for errors that are worth none. They take precedence.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    attempts: int = attrs.field(default=3, validator=count(1, MOST_ATTEMPTS))
    first: float = attrs.field(default=1.0, validator=seconds())
    factor: float = attrs.field(default=2.0, validator=seconds(1.0))
    longest: float = attrs.field(default=300.0, validator=seconds())
    jitter: bool = attrs.field(default=True, validator=flag)
    on: tuple[Kind, ...] = attrs.field(default=(Exception,), converter=_kinds, validator=_are_kinds)
    never: tuple[Kind, ...] = attrs.field(default=(), converter=_kinds, validator=_are_kinds)

    def pause(self, failures: int, error: Exception, rng: Random) -> float:
        """Return how many seconds to wait before another attempt.

        Args:
            failures: how many there were so far, from 1.
            error: the last one.
            rng: draws the pause.
        """
        if (told := _told_pause(error)) is not None:
            return told
        try:
            ceiling = min(self.first * float(self.factor) ** (failures - 1), self.longest)
        except OverflowError:
            ceiling = min(self.longest, math.inf if self.first else 0.0)
        return rng.uniform(0.0, ceiling) if self.jitter else ceiling

    def retries(self, error: Exception) -> bool:
        """Return whether ``error`` is worth another attempt; not if a function of ``on`` raises."""
        try:
            return not any(_is_of(kind, error) for kind in self.never) and any(
                _is_of(kind, error) for kind in self.on
            )
        except Exception:
            logger.exception("cannot tell whether to try again after %s", text_of(error))
            return False

    def expects(self, error: Exception) -> bool:
        """Return whether ``never`` names ``error``: it is no surprise, and worth no attempt."""
        try:
            return any(_is_of(kind, error) for kind in self.never)
        except Exception:  # noqa: BLE001 - ``retries`` has logged it
            return False


def _is_of(kind: Kind, error: Exception) -> bool:
    return isinstance(error, kind) if isinstance(kind, type) else bool(kind(error))


def _told_pause(error: Exception) -> float | None:
    """Return the seconds that an error says to wait, if they are a time at all."""
    try:
        told: Any = getattr(error, "retry_after", None)
        if isinstance(told, timedelta):
            told = told.total_seconds()
        check_seconds("retry_after", told)
        return float(told)
    except Exception:  # noqa: BLE001 - the attribute is the user's own
        return None


def text_of(error: BaseException) -> str:
    """Return what every store can keep of an error: its class and its message, cut short."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception as broken:  # noqa: BLE001 - the class is the user's own
        text = f"{type(error).__name__}, whose message raises {type(broken).__name__}"
    return (
        text[:MOST_TEXT]
        .replace("\0", "\N{REPLACEMENT CHARACTER}")
        .encode(errors="replace")
        .decode()
    )


class PolicyChanges(TypedDict, total=False):
    """What one state does differently; ``None`` takes back what was said before.

    Attributes:
        attempts: of :class:`flowstate.RetryPolicy`, as are the next three. A flow without a policy
            then has that policy with its default values.
        first: seconds.
        factor: by which each pause is longer.
        longest: seconds.
        timeout: seconds for each call.
        on_failure: where the state goes when a flow has failed and is not tried again.
    """

    attempts: int | None
    first: float | None
    factor: float | None
    longest: float | None
    timeout: float | None
    on_failure: str | None


class Override(Struct, frozen=True, omit_defaults=True):
    """What one state does differently than the policies of its flows; ``None``: the same."""

    attempts: int | None = None
    first: float | None = None
    factor: float | None = None
    longest: float | None = None
    timeout: float | None = None
    on_failure: str | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            check_count("attempts", self.attempts, 1, MOST_ATTEMPTS)
        for name, minimum in (("first", 0.0), ("factor", 1.0), ("longest", 0.0)):
            if (value := getattr(self, name)) is not None:
                check_seconds(name, value, minimum)
        if self.timeout is not None:
            check_seconds("timeout", self.timeout, SHORTEST_TIMEOUT)
        if self.on_failure is not None:
            check_id("on_failure", self.on_failure)


def read_override(annotations: Mapping[str, str]) -> Override:
    """Return what a state overrides; what cannot be read counts as not there."""
    text = annotations.get(POLICY)
    if text is None:
        return NO_OVERRIDE
    try:
        return msgspec.json.decode(text, type=Override)
    except (ValueError, RecursionError):
        return NO_OVERRIDE


def overridden(annotations: Mapping[str, str], changes: PolicyChanges) -> str | None:
    """Return the text to annotate a state with that overrides more, or ``None`` for nothing."""
    exact_changes: dict[str, Any] = {name: exact(value) for name, value in changes.items()}
    changed = replace(read_override(annotations), **exact_changes)
    return None if changed == NO_OVERRIDE else msgspec.json.encode(changed).decode()


NO_OVERRIDE = Override()


class Policy(Value, frozen=True):
    """What a flow does when it fails, or takes too long; see :class:`FlowOptions`."""

    retry: RetryPolicy | None = None
    timeout: float | None = None
    on_failure: str | None = None

    @property
    def takes_failures(self) -> bool:
        """Whether a failure is dealt with, instead of raised."""
        return self.retry is not None or self.on_failure is not None

    def of(self, state_annotations: Mapping[str, str]) -> "Policy":
        """Return the policy with what a state overrides."""
        own = read_override(state_annotations)
        if own is NO_OVERRIDE:
            return self
        names = ("attempts", "first", "factor", "longest")
        changes = {name: value for name in names if (value := getattr(own, name)) is not None}
        retry = attrs.evolve(self.retry or RetryPolicy(), **changes) if changes else self.retry
        timeout = self.timeout if own.timeout is None else own.timeout
        return Policy(retry, timeout, own.on_failure or self.on_failure)


class Outcome(Struct, frozen=True):
    """What is done about a failure.

    Attributes:
        do: try again after a pause, send the state elsewhere, or end it as dead.
        failures: how many there were in this step.
        pause: seconds.
        to: the flow that the state goes to.
        failed: the flows that have failed on the way there.
        reason: why there is no further attempt.
        is_expected: the policy says that the error is never worth one.
    """

    do: Literal["retry", "send", "end"]
    failures: int
    pause: float = 0.0
    to: str = ""
    failed: tuple[str, ...] = ()
    reason: str = ""
    is_expected: bool = False


def decide(
    policy: Policy, flow: str, marks: Mapping[str, str], error: Exception, rng: Random
) -> Outcome:
    """Decide what is done about a failure.

    No flow is sent to by ``on_failure`` twice without a step of its own between: two that send to
    each other, and fail, would never end.

    Args:
        policy: of the flow that has failed, with what the state overrides.
        flow: its id.
        marks: annotations of the transition that is committed.
        error: what it raised.
        rng: draws the pause.
    """
    failures = failures_of(marks) + 1
    retry = policy.retry
    is_worth = retry is not None and retry.retries(error)
    if retry is not None and is_worth and failures < retry.attempts:
        return Outcome("retry", failures, pause=retry.pause(failures, error, rng))
    times = "once" if failures == 1 else f"{failures} times"
    reason = f"failed {times} in flow {flow!r}"
    if retry is not None and not is_worth:
        reason += ", the last time with an error that is not tried again"
    failed, to = (*_failed_of(marks), flow), policy.on_failure
    is_expected = retry is not None and retry.expects(error)
    if to is None:
        return Outcome("end", failures, reason=reason, is_expected=is_expected)
    if to in failed:
        return Outcome("end", failures, reason=f"{reason}; {to!r}, for failures, had failed before")
    return Outcome("send", failures, 0.0, to, failed, reason, is_expected)


def failures_of(marks: Mapping[str, str]) -> int:
    """Return how many times a step has failed, from the annotations of its transition."""
    return read_count(marks.get(FAILURES)) or 0


def without_failures(marks: Mapping[str, str]) -> dict[str, str]:
    """Return annotations of a transition without those of failures."""
    return {key: text for key, text in marks.items() if key not in {FAILURES, ERROR}}


def _failed_of(marks: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(marks.get(FAILED, "[]"), type=tuple[str, ...])
    except (ValueError, RecursionError):
        return ()
