"""Was every step taken once, by one live engine at a time? From the log and the journals."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations

from flowstate import State
from flowstate.recovery import attempt
from flowstate.recovery.lease import HOLDER, lease_id
from flowstate.recovery.recoverer import lease_name
from flowstate.recovery_rules import stalls_after
from tests.recovery.cluster import Suspension
from tests.recovery.journal import Execution

__all__ = ["LEASE_ID", "Verdict"]

LEASE_ID = lease_id(lease_name("default"))
MICROSECOND = timedelta(microseconds=1)
MOST_STARVED = 1 / 100  # Of all attempts.
MOMENT = 1_000_000_000  # In which a worker that goes on must have stopped what it executed.


class Verdict:
    """What the journals say, compared with the log.

    Args:
        log: every revision, in order.
        executions: of all workers.
        suspensions: of all workers.
        started_at: at what time the monotonic clock was zero.

    Attributes:
        taken_over: executions that overlapped with one in a worker that had been stopped, with
            the nanoseconds that they did so after it went on.
        late: how many executions began only after their revision had stalled, and met with an
            attempt that was being committed just then.
        starved: how many attempts did not begin before the next one was due.
        not_run: how many attempts were not run because their worker was killed or stopped.
    """

    def __init__(
        self,
        log: Sequence[State],
        executions: Iterable[Execution],
        suspensions: Iterable[Suspension],
        started_at: datetime,
    ) -> None:
        self._log = log
        self._started_at = started_at
        self._suspensions: dict[str, list[Suspension]] = defaultdict(list)
        for suspension in suspensions:
            self._suspensions[suspension.worker].append(suspension)
        self._executions = list(executions)
        self.taken_over: list[int] = []
        self.late = self.starved = 0
        self.not_run = 0

    def faults(self) -> list[str]:
        """Return everything that must not be."""
        return [*self._executed_twice(), *self._executed_at_once(), *self._attempts_not_run()]

    def _executed_twice(self) -> Iterable[str]:
        """No revision is executed twice: each attempt is committed before it runs."""
        seen: dict[tuple[str, int], Execution] = {}
        for execution in self._executions:
            key = execution.id, execution.rev
            if key in seen:
                yield f"one revision was executed twice: {seen[key]} and {execution}"
            seen[key] = execution

    def _executed_at_once(self) -> Iterable[str]:
        """No state is executed at the same time by two engines that live.

        A second one may begin while the first one's process is stopped, or when it has gone on
        so shortly before that it could not yet stop what it executed. What is left of the first
        one must end within a moment of its going on.

        There is one more case. What waited so long that its revision had stalled is begun only
        when a heartbeat shows that no process has taken it over; an attempt that was on its way to
        the store by then is committed nevertheless, within a moment.
        """
        by_id: dict[str, list[Execution]] = defaultdict(list)
        for execution in self._executions:
            by_id[execution.id].append(execution)
        for executions in by_id.values():
            executions.sort(key=lambda each: each.began)
            for first, second in combinations(executions, 2):
                ended = self._ended(first)
                if ended is None:
                    yield f"its end is not known: {first}"
                elif second.began < ended:
                    stop = self._stopped_between(first.worker, first.began, second.began)
                    if second.began < first.began + MOMENT and self._had_stalled(first):
                        self.late += 1
                    elif stop is None or ended > stop + MOMENT:
                        yield f"executed at once: {first} until {ended}, stop {stop}, {second}"
                    else:
                        self.taken_over.append(max(0, ended - max(stop, second.began)))

    def _ended(self, execution: Execution) -> int | None:
        """Return when the code of a flow ran last.

        That is before it waited for the verdict on its last commit. Done or refused, others may
        know of that commit before the flow does, and execute what follows.
        """
        kills = [each.began for each in self._suspensions[execution.worker] if each.ended is None]
        if execution.ended is None and not kills:
            return None
        return execution.waited_since or execution.ended or kills[0]

    def _stopped_between(self, worker: str, began: int, until: int) -> int | None:
        """Return when a worker went on that was stopped in that time."""
        for each in self._suspensions[worker]:
            if each.ended is not None and each.began <= until and each.ended >= began:
                return each.ended
        return None

    def _had_stalled(self, execution: Execution) -> bool:
        """Return whether a revision had stood still for too long when its execution began."""
        state = self._log[execution.rev - 1]
        after = stalls_after(state)
        assert after is not None
        return execution.began >= self._nanoseconds(state) + after / MICROSECOND * 1_000

    def _nanoseconds(self, state: State) -> float:
        """Return by the monotonic clock when a revision was committed."""
        assert state.committed_at is not None
        return (state.committed_at - self._started_at) / MICROSECOND * 1_000

    def _attempts_not_run(self) -> Iterable[str]:
        """Every attempt has begun, unless its worker was killed or stopped before it could.

        On a machine that is far too busy, the store may not answer in time that an attempt may
        begin, so that the next one is due. That must be rare.

        The worker is the one that held the lease: each attempt is fenced by it.
        """
        began = {(each.id, each.rev): each for each in self._executions}
        leases = [state for state in self._log if state.id == LEASE_ID]
        terms = [lease.rev for lease in leases]
        attempts = list(self._attempts())
        unexplained: list[str] = []
        for state in attempts:
            holder = leases[bisect(terms, state.rev) - 1].annotations.get(HOLDER, "")
            found = began.get((state.id, state.rev))
            if found is None and self._was_suspended(holder, state):
                self.not_run += 1
            elif found is None:
                unexplained.append(f"not executed by {holder}: attempt {attempt(state)}, {state}")
            elif (found.worker, found.attempt) != (holder, attempt(state)):
                yield f"committed by {holder}: attempt {attempt(state)}, but {found}"
        self.starved = len(unexplained)
        if self.starved > MOST_STARVED * len(attempts):
            yield from unexplained

    def _attempts(self) -> Iterable[State]:
        """Return the revisions that are attempts; one that only has a new delay is none."""
        last: dict[str, int] = {}
        for state in self._log:
            if attempt(state) not in (0, last.get(state.id)):
                yield state
            last[state.id] = attempt(state)

    def _was_suspended(self, worker: str, state: State) -> bool:
        """Return whether a worker was killed or stopped just after it had committed a state."""
        age = self._nanoseconds(state)
        return any(
            age - MOMENT / 10 <= (each.ended or each.began) and each.began <= age + MOMENT
            for each in self._suspensions[worker]
        )

    def wrong_sums(self, expected: Mapping[str, int], name: str) -> list[str]:
        """Return which ledgers do not have the sum that they must have."""
        found = {state.id: state.annotations[name] for state in self._log if state.id in expected}
        return [
            f"{id} has {found[id]}, not {wanted}"
            for id, wanted in expected.items()
            if found[id] != str(wanted)
        ]


def monotonic_zero(now: int) -> datetime:
    """Return at what time the monotonic clock was zero, if it is ``now``."""
    return datetime.now(UTC) - timedelta(microseconds=now / 1_000)
