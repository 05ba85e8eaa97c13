"""What must become of flows that fail: so many attempts, their pauses, and what comes then."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from flowstate import dead
from flowstate.errors import FlowTimeoutError
from flowstate.recovery import is_dead
from flowstate.recovery.policy import attempt
from flowstate.retrying import ERROR, FAILED, RetryPolicy, failures_of, read_override
from flowstate.state import State
from flowstate.testing.simulation.nemesis import MOST_BACK
from flowstate.testing.simulation.plans import AT
from flowstate.testing.simulation.policies import POLICIES

if TYPE_CHECKING:
    from flowstate.testing.simulation.world import World

__all__ = ["RULES", "failures", "is_given_up", "pairs", "tally_of"]

GIVEN_UP = "failed "  # So begins the reason why a policy has ended a state.


class _Rule(Struct, frozen=True):
    """The policy that holds for a revision: so many attempts, for these errors."""

    attempts: int
    on_failure: str | None
    refused: tuple[str, ...]  # Names of errors that are not tried again; or
    only: tuple[str, ...]  # of those that are, if any are named.

    def retries(self, error: str) -> bool:
        """Return whether an error is worth another attempt."""
        name = error.partition(":")[0]
        return name not in self.refused and (not self.only or name in self.only)


def _rule_of(state: State, flow: str) -> _Rule | None:
    options, own = POLICIES.get(flow, {}), read_override(state.annotations)
    retry = options.get("retry")
    if retry is None and own.attempts is None:
        return None
    known = retry or RetryPolicy()
    refused = tuple([kind.__name__ for kind in known.never if isinstance(kind, type)])
    kinds = [kind for kind in known.on if isinstance(kind, type) and kind is not Exception]
    only = tuple([kind.__name__ for kind in kinds])
    return _Rule(own.attempts or known.attempts, options.get("on_failure"), refused, only)


def is_given_up(state: State) -> bool:
    """Return whether a policy has ended a state as dead."""
    return is_dead(state) and state.transition.annotations[dead.REASON].startswith(GIVEN_UP)


def pairs(world: "World") -> Iterator[tuple[State | None, State]]:
    """Iterate over the log, each revision with the one before it of the same state."""
    last: dict[str, State] = {}
    for state in world.store.log:
        yield last.get(state.id), state
        last[state.id] = state


def failures(state: State | None) -> int:
    """Return how often the step has failed that a state is in."""
    return 0 if state is None else failures_of(state.transition.annotations)


def _is_same_step(before: State | None, state: State) -> bool:
    if before is None or before.transition.to != state.transition.to:
        return False
    return before.annotations.get(AT) == state.annotations.get(AT)


def _failures_are_counted(world: "World") -> Iterator[str]:
    """A step fails as often as its policy allows; failures and attempts of recovery are two counts.

    A failure that is tried again is a delayed revision; its count is that of the one before and
    one more.
    """
    runs = Counter(run.key for run in world.runs)
    plans = {plan.id for plan in world.plans}
    for before, state in pairs(world):
        if state.id not in plans:
            continue
        known, now, is_same = failures(before), failures(state), _is_same_step(before, state)
        if is_same and attempt(state) > attempt(before) and now != known:  # type: ignore[arg-type]
            yield f"{state.id}@{state.rev} is attempt {attempt(state)}, and {known} became {now}"
        if now <= known:
            continue
        rule = _rule_of(state, state.transition.to)
        if rule is None or now >= rule.attempts or now != known * is_same + 1:
            yield f"{state.id}@{state.rev} is failure {now} after {known}, by {rule}"
        elif not rule.retries(state.transition.annotations[ERROR]):
            yield f"{state.id}@{state.rev} is tried again after {state.transition.annotations}"
        if state.delayed_until is None:
            yield f"{state.id}@{state.rev} has failed, and makes no pause"
        if is_same and attempt(state) != attempt(before):  # type: ignore[arg-type]
            yield f"{state.id}@{state.rev} counts a failure as attempt {attempt(state)}"
        key = f"{state.id}:{state.transition.origin}:{state.transition.to}"
        if runs[key] < now:
            yield f"{key} has failed {now} times, and ran {runs[key]} times"


def _each_failure_counts(world: "World") -> Iterator[str]:
    """A step that makes one more pause has one more failure."""
    for before, state in pairs(world):
        if before is None or before.delayed_until or not state.delayed_until:
            continue
        if _is_same_step(before, state) and failures(state) == failures(before) > 0:
            yield f"{state.id}@{state.rev} has failed again, and counts {failures(state)} as before"


def _pauses_are_kept(world: "World") -> Iterator[str]:
    """What has failed is not executed again before the end of its pause."""
    has_stepped = world.store.counts["store clock back"] > 0
    back = timedelta(seconds=MOST_BACK if has_stepped else 0.0)
    for before, state in pairs(world):
        if before is None or not before.delayed_until or not failures(before):
            continue
        if state.delayed_until is not None:  # By an update, or as the next failure.
            continue
        is_again = state.transition.origin == before.transition.origin
        at = state.committed_at
        if is_again and at is not None and at + back < before.delayed_until:
            yield f"{state.id}@{state.rev} is tried again before {before.delayed_until}"


def _what_is_exhausted_goes_on(world: "World") -> Iterator[str]:
    """A step is given up when its last attempt has failed: it goes to ``on_failure``, or ends."""
    for before, state in pairs(world):
        marks = state.transition.annotations
        if is_given_up(state):
            flow, error = state.transition.to, marks[dead.ERROR]
            number, goes_to = int(marks[dead.FAILURES]), None
        elif _is_sent(state):
            flow, error = _failed(state)[-1], marks[ERROR]
            is_same = before is not None and before.transition.to == flow
            number, goes_to = failures(before) * is_same + 1, state.transition.to
        else:
            continue
        rule = _rule_of(state, flow)
        if rule is None or (number != rule.attempts and rule.retries(error)):
            yield f"{state.id}@{state.rev} was given up after {number} failures, by {rule}"
        elif goes_to != rule.on_failure:
            yield f"{state.id}@{state.rev} went to {goes_to} and not to {rule.on_failure}"


def _failed(state: State) -> list[str]:
    return msgspec.json.decode(state.transition.annotations.get(FAILED, "[]"), type=list[str])


def _is_sent(state: State) -> bool:
    """Return whether a revision is the first one in a flow that failures lead to."""
    return not state.transition.origin and len(_failed(state)) > 0 and not is_dead(state)


RULES = (
    _failures_are_counted,
    _each_failure_counts,
    _pauses_are_kept,
    _what_is_exhausted_goes_on,
)


def tally_of(world: "World") -> Counter[str]:
    """Return how often what was seen of policies."""
    counts: Counter[str] = Counter()
    for before, state in pairs(world):
        has_failed = failures(state) > failures(before)
        counts["failures"] += has_failed
        error = state.transition.annotations.get(ERROR, "")
        counts["timeouts"] += has_failed and error.startswith(FlowTimeoutError.__name__)
        counts["failures after crashes"] += has_failed and attempt(state) > 0
        has_crashed = before is not None and attempt(state) > attempt(before)
        counts["crashes after failures"] += has_crashed and failures(state) > 0
        counts["sent to on_failure"] += _is_sent(state)
        counts["given up"] += is_given_up(state)
    return counts
