"""What the tests of a cluster under fire would notice."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowstate import State, Status, Transition
from flowstate.recovery.lease import HOLDER
from flowstate.recovery_rules import ATTEMPT, RETRY_AFTER
from tests.recovery.cluster import Suspension
from tests.recovery.journal import Execution, Journal, read_journal
from tests.recovery.verdict import LEASE_ID, Verdict

SECOND = 1_000_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)


def revision(rev: int, attempt: int = 0) -> State:
    annotations = {ATTEMPT: str(attempt)} if attempt else {}
    at = START + timedelta(seconds=rev)
    transition = Transition("work", annotations)
    return State("job", rev, {}, {RETRY_AFTER: "2"}, transition=transition, committed_at=at)


LEASE = State(LEASE_ID, 1, annotations={HOLDER: "b"}, status=Status.PAUSED, committed_at=START)
LOG = [LEASE, revision(2), revision(3, 1)]


def execution(worker: str, rev: int, began: float, ended: float | None) -> Execution:
    end = None if ended is None else int(ended * SECOND)
    return Execution(worker, "job", rev, rev - 2, int(began * SECOND), end)


def suspension(worker: str, began: float, ended: float | None = None) -> Suspension:
    end = None if ended is None else int(ended * SECOND)
    return Suspension(worker, int(began * SECOND), end)


GOOD: list[tuple[Sequence[Execution], Sequence[Suspension]]] = [
    ([execution("a", 2, 2.0, 2.5), execution("b", 3, 3.0, 3.5)], []),
    ([execution("a", 2, 2.0, None), execution("b", 3, 3.0, 3.5)], [suspension("a", 2.5)]),
    ([execution("a", 2, 2.0, 4.9), execution("b", 3, 3.0, 3.5)], [suspension("a", 2.5, 4.5)]),
    ([execution("a", 2, 2.0, 2.5)], [suspension("b", 3.1)]),
    ([execution("a", 2, 4.1, 6.0), execution("b", 3, 4.2, 4.5)], []),
]
BAD: list[tuple[str, Sequence[Execution], Sequence[Suspension]]] = [
    ("executed at once", [execution("a", 2, 2.0, 3.1), execution("b", 3, 3.0, 3.5)], []),
    (
        "executed at once",
        [execution("a", 2, 2.0, 6.0), execution("b", 3, 3.0, 3.5)],
        [suspension("a", 2.5, 4.5)],
    ),
    (
        "executed at once",
        [execution("a", 2, 2.0, None), execution("b", 3, 3.0, 3.5)],
        [suspension("a", 3.2)],
    ),
    ("not known", [execution("a", 2, 2.0, None), execution("b", 3, 3.0, 3.5)], []),
    ("not executed", [execution("a", 2, 2.0, 2.5)], []),
    ("not executed", [execution("a", 2, 2.0, 2.5)], [suspension("b", 9.0)]),
    ("committed by b", [execution("a", 2, 2.0, 2.5), execution("a", 3, 3.0, 3.5)], []),
    (
        "executed twice",
        [execution("a", 2, 2.0, 2.2), execution("a", 2, 2.3, 2.5), execution("b", 3, 3.0, 3.5)],
        [],
    ),
]


@pytest.mark.parametrize(("executions", "suspensions"), GOOD)
def test_what_may_be(executions: Sequence[Execution], suspensions: Sequence[Suspension]) -> None:
    assert Verdict(LOG, executions, suspensions, START).faults() == []


@pytest.mark.parametrize(("fault", "executions", "suspensions"), BAD)
def test_what_must_not_be(
    fault: str, executions: Sequence[Execution], suspensions: Sequence[Suspension]
) -> None:
    (found,) = Verdict(LOG, executions, suspensions, START).faults()
    assert fault in found


@pytest.mark.parametrize(("waited_since", "faults"), [(2.9, 0), (3.1, 1), (None, 1)])
def test_a_killed_execution_ran_until_it_waited_for_its_verdict(
    waited_since: float | None, faults: int
) -> None:
    killed = execution("a", 2, 2.0, None)
    killed.waited_since = None if waited_since is None else int(waited_since * SECOND)
    verdict = Verdict(LOG, [killed, execution("b", 3, 3.0, 3.5)], [suspension("a", 3.2)], START)
    assert len(verdict.faults()) == faults


def test_a_journal_outlives_its_worker(tmp_path: Path) -> None:
    path = tmp_path / "worker.journal"
    journal = Journal(path)
    refused, killed, done = (journal.begin(revision(rev)) for rev in (2, 3, 4))
    for entry in (refused, killed, done):
        entry.commits()
    refused.goes_on()
    done.end()
    found = [
        (each.rev, each.waited_since is None, each.ended is None) for each in read_journal(path)
    ]
    assert found == [(2, True, True), (3, False, True), (4, False, False)]
