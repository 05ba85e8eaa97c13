"""Marks are judged by the median of ratios round by round, and doubt is told."""

from contextlib import AsyncExitStack
from statistics import median

import pytest
from msgspec.structs import replace

from benchmarks.catalogue import chosen
from benchmarks.figures import checks
from benchmarks.records import Record
from benchmarks.report import report
from benchmarks.runner import Budget, Pace
from benchmarks.session import made_setting
from benchmarks.sizes import QUICK
from benchmarks.suites import SUITES
from tests.benchmarks.records import record, side, workload

pytestmark = pytest.mark.repository


def judged(ratios: list[float], mark: float) -> Record:
    """The limit differs from round to round by more than the ratio does."""
    limits = [float(10**number) for number in range(len(ratios))]
    ours = [ratio * limit for ratio, limit in zip(ratios, limits, strict=True)]
    return record(workload(side(ours), side(limits, "bare", mark=mark)))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.0, 1.1, 1.2, 1.1, 1.0, 1.1], "met"),
        ([1.0, 1.1, 1.6, 1.1, 1.0, 1.1], "met, unsure"),
        ([2.9, 3.0, 3.1, 3.0, 3.0, 3.2], "NOT MET, by 100 %"),
        ([1.4, 1.8, 1.8, 1.8, 1.9, 1.8], "NOT MET, by 20 %, unsure"),
        ([1.0], "met, unsure"),
    ],
)
def test_verdicts(ratios: list[float], verdict: str) -> None:
    (check,) = checks(judged(ratios, 1.5).workloads[0])

    assert check.verdict == verdict
    assert check.figure is not None
    assert check.figure.value == pytest.approx(median(ratios))


def test_peers_are_told_the_other_way_round() -> None:
    found = judged([0.1] * 6, 1 / 20)
    found.workloads[0].others[0].role = "peer"

    (check,) = checks(found.workloads[0])

    assert (check.asked, check.verdict) == ("at least 20.0 x", "NOT MET, by 50 %")


def test_what_was_not_measured_does_not_meet_its_mark() -> None:
    found = judged([1.0], 1.5)
    found.workloads[0].others[0].samples.clear()

    (check,) = checks(found.workloads[0])

    assert (check.met, check.verdict) == (False, "not measured")
    assert "not measured" in report(found, {})


def test_the_report_says_by_how_much_marks_are_missed() -> None:
    text = report(judged([3.0] * 6, 1.5), {})

    assert "0 met, 1 not met" in text or "1 not met" in text
    assert "sqlite: commits, bare: 3.00 x [3.00 x to 3.00 x], at most 1.50 x, NOT MET" in text


def test_later_workloads_get_what_earlier_ones_leave() -> None:
    budget = Budget(end=100.0, left=4)

    assert budget.share(0.0) == 25.0
    assert budget.share(10.0) == 40.0
    assert budget.share(90.0) == 95.0
    assert budget.share(120.0) == 120.0


async def test_what_a_size_leaves_out_exists_and_can_be_asked_for() -> None:
    async with AsyncExitStack() as stack:
        setting = made_setting(stack, QUICK)
        kept = chosen(setting, SUITES)
        everything = chosen(made_setting(stack, replace(QUICK, without=())), SUITES)
        asked = chosen(setting, SUITES, "size of ")

    assert asked
    for part in QUICK.without:
        assert any(part in workload.key for workload in everything)
        assert not any(part in workload.key for workload in kept)


def rounds(pace: Pace, seconds: float) -> int:
    """How many rounds of so many seconds there are."""
    number = 0
    while pace.goes_on(number * seconds):
        number += 1
    return number


@pytest.mark.parametrize(
    ("most", "until", "seconds", "expected"),
    [
        (None, 5.0, 10.0, QUICK.least_rounds),
        (2, 100.0, 1.0, 2),
        (None, 10.0, 1.0, 10),
        (None, 1_000.0, 1.0, QUICK.most_rounds),
    ],
)
def test_rounds_go_on_until_the_share_is_used(
    most: int | None, until: float, seconds: float, expected: int
) -> None:
    assert rounds(Pace(QUICK, most, until), seconds) == expected
