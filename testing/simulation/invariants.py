"""What must be true of a simulated world once it is over, whatever happened in it."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from flowstate.errors import CommitUnknownError
from flowstate.recovery import is_dead, max_attempts
from flowstate.recovery.lease import HOLDER, lease_id
from flowstate.recovery.policy import attempt
from flowstate.state import State, Status
from flowstate.testing.histories.checker import check as find_violations
from flowstate.testing.simulation import clients, key_rules, message_rules, policy_rules, updates
from flowstate.testing.simulation.nemesis import MOST_BACK
from flowstate.testing.simulation.plans import AT
from flowstate.testing.simulation.policy_rules import is_given_up
from flowstate.testing.simulation.process import DUTY, Watched
from flowstate.testing.simulation.recording import operations_of
from flowstate.testing.simulation.workload import BY, COUNT, COUNTER, SEEN, counter_of
from flowstate.timers import TIMER

if TYPE_CHECKING:
    from flowstate.testing.simulation.world import World

__all__ = ["check", "is_dropped", "is_firing", "wanted"]

RECOVERY_LEASE = lease_id("recovery.default")
DUTY_LEASE = lease_id("duty")


def check(world: "World") -> list[str]:
    """Return all that is wrong."""
    return [violation for rule in RULES for violation in rule(world)]


def wanted(log: list[State], watched: Watched) -> list[int]:
    """Return which revisions a watcher must see."""
    terms = watched.labels.items()
    return [state.rev for state in log if terms <= state.labels.items()]


def _log_is_dense(world: "World") -> Iterator[str]:
    for place, state in enumerate(world.store.log, 1):
        if state.rev != place:
            yield f"revision {state.rev} is at place {place} of the log"


def _verdicts_are_true(world: "World") -> Iterator[str]:
    """What an engine was told of a commit is what became of it."""
    applied = world.store.applied
    for token, verdict in world.store.verdicts.items():
        if isinstance(verdict, tuple):
            if applied.get(token) != verdict:
                yield f"commit {token} was acknowledged, and is not in the log"
        elif verdict is None or isinstance(verdict, CommitUnknownError):
            continue
        elif token in applied:
            yield f"commit {token} was refused with {verdict!r}, and is in the log"
    for token in applied.keys() - world.store.verdicts.keys():
        yield f"commit {token} was made up"


def _counters_count(world: "World") -> Iterator[str]:
    """Each counter is incremented once by every step that counts, in the commit of that step."""
    log = world.store.log
    counts: dict[str, int] = {}
    for state in log:
        if not state.id.startswith(COUNTER):
            continue
        counts[state.id] = counts.get(state.id, 0) + 1
        if state.annotations[COUNT] != str(counts[state.id]):
            yield f"{state.id}@{state.rev} counts {state.annotations[COUNT]}"
        before = log[state.rev - 2] if state.rev > 1 else None
        if not state.id.startswith(DUTY) and (before is None or before.id != state.annotations[BY]):
            yield f"{state.id}@{state.rev} was incremented without a step"
    last: dict[str, State] = {}
    for state in log:
        before = last.get(state.id)
        last[state.id] = state
        if before is None or before.transition.to != "count" or before.status is Status.ENDED:
            continue
        if state.annotations.get(AT) == before.annotations[AT]:
            continue  # It was only tried again, or a reminder came.
        after = log[state.rev] if state.rev < len(log) else None
        if after is None or after.id != counter_of(state.id):
            yield f"{state.id}@{state.rev} stepped on without its counter"


def _checks_hold(world: "World") -> Iterator[str]:
    """What a commit has checked was so when it happened."""
    latest: dict[str, int] = {}
    last: dict[str, State] = {}
    for state in world.store.log:
        seen, before = state.annotations.get(SEEN), last.get(state.id)
        if seen is not None and (before is None or before.annotations.get(SEEN) != seen):
            found = latest.get(counter_of(state.id), 0)
            if found != int(seen):
                yield f"{state.id}@{state.rev} has checked {seen}, and it was {found}"
        latest[state.id] = state.rev
        last[state.id] = state


def _writers_hold_leases(world: "World") -> Iterator[str]:
    """Whatever only the holder of a lease may write was written by the holder."""
    holders: dict[str, str] = {}
    attempts: dict[str, int] = {}
    for state, author in zip(world.store.log, world.store.authors, strict=True):
        if state.id in {RECOVERY_LEASE, DUTY_LEASE}:
            holders[state.id] = state.annotations.get(HOLDER, "")
        is_duty = state.id.startswith(DUTY)
        by = DUTY_LEASE if is_duty else RECOVERY_LEASE
        is_attempt = attempt(state) > attempts.get(state.id, 0)
        attempts[state.id] = attempt(state)
        is_fenced = is_duty or is_attempt or is_dropped(state)
        if is_fenced and holders.get(by) != author:
            yield f"{state.id}@{state.rev} is by {author}, and {holders.get(by)!r} held {by}"


def is_dropped(state: State) -> bool:
    """Return whether recovery has ended a state by force."""
    return is_dead(state) and not is_given_up(state)


def _everybody_ended(world: "World") -> Iterator[str]:
    """States end; by force only after all attempts, none of which goes on; attempts are counted."""
    last: dict[str, State] = {}
    for state in world.store.log:
        before = last.get(state.id)
        last[state.id] = state
        number = attempt(state)
        if number > max_attempts(state):
            yield f"{state.id}@{state.rev} is attempt {number}"
        if number and (before is None or number - attempt(before) not in {0, 1}):
            yield f"{state.id}@{state.rev} is attempt {number} after {before!r}"
        if is_dropped(state) and (before is None or attempt(before) != max_attempts(before)):
            yield f"{state.id}@{state.rev} was ended by force after {before!r}"
    for plan in world.plans:
        if plan.id in last and last[plan.id].status is not Status.ENDED:
            yield f"{plan.id} has not ended"


def _is_the_same_step(before: State, after: State) -> bool:
    steps = [(state.transition.to, state.transition.cause) for state in (before, after)]
    is_kept = after.transition.origin or before.annotations == after.annotations
    return steps[0] == steps[1] and bool(is_kept)


def _delays_fire_once(world: "World") -> Iterator[str]:
    """A delay fires at the revision that it belongs to, and not before its time.

    It was due when the store was asked, even if the clock has stepped back until the commit.
    """
    has_stepped = world.store.counts["store clock back"] > 0
    stepped_back = timedelta(seconds=MOST_BACK if has_stepped else 0.0)
    last: dict[str, State] = {}
    for state in world.store.log:
        before = last.get(state.id)
        last[state.id] = state
        if state.transition.cause != "delay" or attempt(state) or state.delayed_until:
            continue  # What is delayed once more keeps its last step.
        if before is None or state.committed_at is None:
            yield f"{state.id}@{state.rev} begins with a delay"
        elif before.delayed_until is None and _is_the_same_step(before, state):
            continue  # It was committed once more as it was, to be sure whose it is.
        elif before.delayed_until is None:
            yield f"{state.id}@{state.rev} fired, and {before.rev} was not delayed"
        elif state.committed_at + stepped_back < before.delayed_until:
            yield f"{state.id}@{state.rev} fired before {before.delayed_until}"


def is_firing(state: State) -> bool:
    """Return whether a timer made a revision: of those that keep the step, only the first."""
    return state.transition.cause == "timer" and not state.transition.origin


def _timers_fire_once(world: "World") -> Iterator[str]:
    """A timer fires while its state has it, into its flow, and not before its time.

    It is due by the store's clock, which may be behind the times of revisions.
    """
    has_stepped = world.store.counts["store clock back"] > 0
    stepped_back = timedelta(seconds=MOST_BACK if has_stepped else 0.0) + world.store.set_back
    last: dict[str, State] = {}
    for state in world.store.log:
        before = last.get(state.id)
        last[state.id] = state
        if not is_firing(state):
            continue
        name = state.transition.annotations.get(TIMER, "")
        timer = before.timers.get(name) if before is not None else None
        if before is None or timer is None or name in state.timers:
            yield f"{state.id}@{state.rev} fired timer {name!r} of {before!r}"
            continue
        due = timer.due_at(before.committed_at)
        if state.transition.to != timer.to or state.status is not Status.ACTIVE:
            yield f"{state.id}@{state.rev} fired timer {name!r}, and is {state!r}"
        elif due is None or state.committed_at is None or state.committed_at + stepped_back < due:
            yield f"{state.id}@{state.rev} fired timer {name!r} before {due}"


def _watchers_saw_all(world: "World") -> Iterator[str]:
    for watched in world.watched:
        expected = [
            rev
            for rev in wanted(world.store.log, watched)
            if rev <= watched.cursor and not any(a < rev <= b for a, b in watched.gaps)
        ]
        if watched.revs != expected:
            missed = sorted(set(expected) - set(watched.revs))
            yield f"a watcher saw {watched.revs}, and has missed {missed}"


def _runs_are_of_their_own(world: "World") -> Iterator[str]:
    """Every revision is run once, after it was committed, as the attempt that it is."""
    log = world.store.log
    seen: set[tuple[str, int]] = set()
    for run in world.runs:
        if run.is_held:
            continue
        if not 0 < run.rev <= len(log) or log[run.rev - 1].id != run.id:
            yield f"{run.id}@{run.rev} ran, and was never committed"
            continue
        state = log[run.rev - 1]
        if attempt(state) != run.attempt or state.transition.to != run.flow:
            yield f"{run.id}@{run.rev} ran {run.flow} as attempt {run.attempt}"
        if (run.id, run.rev) in seen:
            yield f"{run.id}@{run.rev} ran twice"
        seen.add((run.id, run.rev))


def _history_is_allowed(world: "World") -> Iterator[str]:
    """What processes were told agrees with the log, in the order in which it happened."""
    store = world.store
    delays = [each.id for each in store.delays() if not each.timer]
    timers = [each.id for each in store.delays() if each.timer]
    history = store.recording.history(store.log, store.applied, delays, timers)
    store.counts["checked operations"] += operations_of(history)
    yield from map(str, find_violations(history))


def _nothing_is_left(world: "World") -> Iterator[str]:
    for process in world.processes:
        for task in process.group.tasks:
            if not task.done():
                yield f"{process} has left {task.get_name()!r} behind"
            elif getattr(task, "_log_traceback", False):
                yield f"{process} has not looked at what {task.get_name()!r} raised"


RULES: tuple[Callable[["World"], Iterator[str]], ...] = (
    _log_is_dense,
    _verdicts_are_true,
    _counters_count,
    _checks_hold,
    _writers_hold_leases,
    _everybody_ended,
    _delays_fire_once,
    _timers_fire_once,
    _watchers_saw_all,
    _runs_are_of_their_own,
    _history_is_allowed,
    _nothing_is_left,
    *policy_rules.RULES,
    *key_rules.RULES,
    *message_rules.RULES,
    *updates.RULES,
    *clients.RULES,
)
