"""A comparison finds what has changed, and claims nothing where only the machine has."""

from random import Random

import pytest

from benchmarks.changes import change_lines, slower
from benchmarks.comparing import Change, changes
from benchmarks.records import Record
from tests.benchmarks.records import noisy, record, side, workload

pytestmark = pytest.mark.repository

NOISE_ONLY = 200
ROUNDS = 15


def measured(
    seed: int,
    *,
    factor: float = 1.0,
    machine: float = 1.0,
    rounds: int = ROUNDS,
    statements: float = 3.0,
) -> Record:
    """A run in which flowstate is so much slower, on a machine that is so much slower."""
    random = Random(seed)
    drift = [machine * random.lognormvariate(0, 0.3) for _ in range(rounds)]
    limit = [d * value for d, value in zip(drift, noisy(random, 1e-3, rounds, 0.03), strict=True)]
    ours = [
        d * factor * value
        for d, value in zip(drift, noisy(random, 2e-3, rounds, 0.03), strict=True)
    ]
    return record(workload(side(ours, statements=statements), side(limit, "bare")))


def in_turns(seed: int, factor: float, rounds: int = ROUNDS) -> tuple[Record, Record]:
    """Two runs that met the same disturbance in each round, three times as much in some."""
    random = Random(seed)
    drift = [random.choice([1.0, 1.1, 3.0]) for _ in range(rounds)]
    olds = [d * random.lognormvariate(0, 0.02) for d in drift]
    news = [d * factor * random.lognormvariate(0, 0.02) for d in drift]
    return tuple(record(workload(side(values)), pair="x") for values in (olds, news))  # type: ignore[return-value]


def only(old: Record, new: Record) -> Change:
    (change,) = changes(old, new)
    return change


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (1 / 1.3, "faster")])
def test_finds_a_change_on_a_machine_that_has_become_slower(factor: float, verdict: str) -> None:
    change = only(measured(1), measured(2, factor=factor, machine=2.0))

    assert (change.verdict, change.basis) == (verdict, "time by the limit's")
    assert change.factor is not None
    assert change.factor.holds(factor)
    assert change.time is not None
    assert change.time.value > 1.3


def test_claims_nothing_of_noise() -> None:
    verdicts = [
        only(measured(2 * seed), measured(2 * seed + 1, machine=1.7)).verdict
        for seed in range(NOISE_ONLY)
    ]

    assert verdicts.count("unchanged within noise") >= 0.98 * NOISE_ONLY


def test_rounds_in_turns_claim_nothing_of_noise() -> None:
    verdicts = [only(*in_turns(seed, 1.0)).verdict for seed in range(NOISE_ONLY)]

    assert verdicts.count("unchanged within noise") >= 0.98 * NOISE_ONLY


def test_rounds_in_turns_find_what_separate_ones_do_not() -> None:
    old, new = in_turns(1, 1.08)
    apart = [record(*found.workloads) for found in (old, new)]

    together = only(old, new)

    assert (together.verdict, together.basis) == ("slower", "time in the same rounds")
    assert together.factor is not None
    assert together.factor.holds(1.08)
    assert only(*apart).verdict == "nothing to go by"


def test_runs_of_different_pairs_are_not_taken_round_by_round() -> None:
    old, new = in_turns(1, 1.08)
    new.settings.pair = "y"

    assert only(old, new).basis != "time in the same rounds"


def test_pairs_by_the_number_of_the_round() -> None:
    old, new = in_turns(1, 1.0)
    old.workloads[0].ours.samples = old.workloads[0].ours.samples[3:]

    change = only(old, new)

    assert change.factor is not None
    assert change.factor.count == ROUNDS - 3
    assert change.factor.value == pytest.approx(1.0, abs=0.05)


def test_without_a_limit_goes_by_cpu_and_the_yardstick() -> None:
    random = Random(1)
    old, new = (
        record(workload(side(noisy(random, 1.0, ROUNDS), cpus=noisy(random, cpu, ROUNDS, 0.02))))
        for cpu in (1e-4, 2e-4)
    )

    change = only(old, new)

    assert (change.verdict, change.basis) == ("slower", "CPU by the yardstick's")


@pytest.mark.parametrize("rounds", [1, 3])
def test_few_rounds_claim_nothing(rounds: int) -> None:
    change = only(measured(1, rounds=rounds), measured(2, factor=3.0, rounds=rounds))

    assert change.verdict == "too few rounds"


def test_claims_nothing_that_two_starts_may_differ_by() -> None:
    old, new = (record(workload(side([value] * ROUNDS)), pair="x") for value in (1.0, 1.02))

    assert only(old, new).verdict == "unchanged within noise"


def test_tells_statements_exactly() -> None:
    old, new = measured(1), measured(2, statements=4.0)

    lines = list(change_lines(old, new, changes(old, new)))

    assert any("statements 3 -> 4" in line for line in lines)


def test_names_what_is_in_one_run_only() -> None:
    old = record(workload(side([1.0]), name="gone"), workload(side([1.0])))
    new = record(workload(side([1.0])), workload(side([1.0]), name="come"))

    lines = list(change_lines(old, new, changes(old, new)))

    assert "only in the old run: sqlite: gone" in lines
    assert "only in the new run: sqlite: come" in lines
    assert len(changes(old, new)) == 1


def test_a_limit_on_slowness_looks_at_claims_only() -> None:
    slow = changes(measured(1), measured(2, factor=1.3))
    unsure = changes(measured(1, rounds=3), measured(2, factor=3.0, rounds=3))

    assert slower(slow, 10.0) == slow
    assert slower(slow, 60.0) == []
    assert slower(unsure, 10.0) == []
