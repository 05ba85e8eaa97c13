"""The rules of a policy, without a store: whether and when to try again, and what is noted."""

import enum
import math
from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate import InvalidInputError, RetryPolicy, State, StateContext
from flowstate.executions.tenure import Note
from flowstate.ground.limits import MAX_NOTE_BYTES, check_annotations
from flowstate.retrying import (
    ERROR,
    FAILED,
    FAILURES,
    POLICY,
    Policy,
    decide,
    failures_of,
    read_override,
    text_of,
    without_failures,
)

RNG = Random(7)


class ToldError(Exception):
    """An error that says how long to wait."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("too many requests")
        self.retry_after = retry_after


class UntoldError(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("no such header")


# Pauses


@pytest.mark.parametrize(
    ("options", "pauses"),
    [
        ({}, [1.0, 2.0, 4.0, 8.0]),
        ({"first": 0.5, "factor": 3.0}, [0.5, 1.5, 4.5, 13.5]),
        ({"first": 100.0}, [100.0, 200.0, 300.0, 300.0]),
        ({"factor": 1}, [1.0, 1.0, 1.0, 1.0]),
        ({"first": 0}, [0.0, 0.0, 0.0, 0.0]),
        ({"first": 10, "longest": 3}, [3.0, 3.0, 3.0, 3.0]),
    ],
)
def test_pauses_grow_up_to_the_longest(options: dict[str, Any], pauses: list[float]) -> None:
    policy = RetryPolicy(jitter=False, **options)
    assert [policy.pause(n, ValueError(), RNG) for n in range(1, 5)] == pauses


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_a_pause_after_a_million_failures_is_still_a_number(first: float) -> None:
    policy = RetryPolicy(first=first, factor=10, longest=60.0, jitter=False)
    assert policy.pause(1_000_000, ValueError(), RNG) == min(60.0, first * 60.0)


def test_jitter_draws_from_the_whole_pause_with_the_rng_that_is_given() -> None:
    policy = RetryPolicy(first=8.0, factor=1.0)
    drawn = [policy.pause(1, ValueError(), rng) for rng in [Random(3)] for _ in range(1_000)]
    again = Random(3)
    assert drawn == [again.uniform(0.0, 8.0) for _ in range(1_000)]
    assert min(drawn) < 0.1
    assert max(drawn) > 7.9


@pytest.mark.parametrize(
    ("told", "pause"),
    [
        (7, 7.0),
        (0, 0.0),
        (0.25, 0.25),
        (timedelta(minutes=1), 60.0),
        (86_400, 86_400.0),  # Longer than the longest of the policy.
        (-1, 2.0),
        (timedelta(seconds=-1), 2.0),
        (math.nan, 2.0),
        (math.inf, 2.0),
        (timedelta.max, 2.0),
        (10**400, 2.0),
        ("7", 2.0),
        (None, 2.0),
        (True, 2.0),
    ],
)
def test_an_error_may_say_the_pause_itself(told: Any, pause: float) -> None:
    policy = RetryPolicy(first=2.0, jitter=False)
    found = policy.pause(1, ToldError(told), RNG)
    assert (type(found), found) == (float, pause)


def test_an_error_whose_pause_cannot_be_read_has_none() -> None:
    assert RetryPolicy(first=2.0, jitter=False).pause(1, UntoldError(), RNG) == 2.0


# Which errors


def is_busy(error: Exception) -> bool:
    return "busy" in str(error)


def is_broken(error: Exception) -> bool:
    raise RuntimeError("a function that fails")


@pytest.mark.parametrize(
    ("options", "error", "retries"),
    [
        ({}, ValueError(), True),
        ({}, ExceptionGroup("several", [ValueError()]), True),
        ({"on": (OSError,)}, ConnectionError(), True),
        ({"on": (OSError,)}, ValueError(), False),
        ({"on": (OSError, is_busy)}, ValueError("busy"), True),
        ({"on": (OSError, is_busy)}, ValueError("idle"), False),
        ({"never": (ValueError,)}, UnicodeError(), False),
        ({"never": is_busy}, ValueError("busy"), False),
        ({"never": is_busy}, ValueError("idle"), True),
        ({"on": ValueError, "never": ValueError}, ValueError(), False),
        ({"on": ()}, ValueError(), False),
        ({"on": is_broken}, ValueError(), False),
        ({"never": is_broken}, ValueError(), False),
        ({"on": (ValueError, is_broken)}, ValueError(), True),
    ],
)
def test_classes_and_functions_tell_which_errors_are_tried_again(
    options: dict[str, Any], error: Exception, retries: bool
) -> None:
    assert RetryPolicy(**options).retries(error) is retries


# Decisions


def marks(failures: int, *failed: str) -> dict[str, str]:
    made = {FAILURES: str(failures)} if failures else {}
    return made | ({FAILED: msgspec.json.encode(failed).decode()} if failed else {})


TWICE = RetryPolicy(attempts=3, first=5.0, jitter=False)
NEVER = RetryPolicy(never=ValueError)


@pytest.mark.parametrize(
    ("policy", "before", "expected"),
    [
        (Policy(TWICE), marks(0), ("retry", 1, 5.0, "", ())),
        (Policy(TWICE), marks(1), ("retry", 2, 10.0, "", ())),
        (Policy(TWICE), marks(2), ("end", 3, 0.0, "", ())),
        (Policy(TWICE), marks(700), ("end", 701, 0.0, "", ())),
        (Policy(NEVER), marks(0), ("end", 1, 0.0, "", ())),
        (Policy(TWICE, on_failure="refund"), marks(1), ("retry", 2, 10.0, "", ())),
        (Policy(TWICE, on_failure="refund"), marks(2), ("send", 3, 0.0, "refund", ("charge",))),
        (Policy(NEVER, on_failure="refund"), marks(0), ("send", 1, 0.0, "refund", ("charge",))),
        (Policy(None, on_failure="refund"), marks(0), ("send", 1, 0.0, "refund", ("charge",))),
        (
            Policy(None, on_failure="refund"),
            marks(0, "reserve"),
            ("send", 1, 0.0, "refund", ("reserve", "charge")),
        ),
        (Policy(None, on_failure="refund"), marks(0, "refund"), ("end", 1, 0.0, "", ())),
        (Policy(None, on_failure="charge"), marks(0), ("end", 1, 0.0, "", ())),
    ],
)
def test_what_is_done_about_a_failure(
    policy: Policy, before: Mapping[str, str], expected: tuple[Any, ...]
) -> None:
    found = decide(policy, "charge", before, ValueError("declined"), RNG)
    assert (found.do, found.failures, found.pause, found.to, found.failed) == expected


@pytest.mark.parametrize(
    ("policy", "before", "reason"),
    [
        (Policy(RetryPolicy(attempts=1)), marks(0), "failed once in flow 'charge'"),
        (Policy(TWICE), marks(2), "failed 3 times in flow 'charge'"),
        (
            Policy(NEVER),
            marks(1),
            "failed 2 times in flow 'charge', the last time with an error that is not tried again",
        ),
        (
            Policy(None, on_failure="refund"),
            marks(0, "refund"),
            "failed once in flow 'charge'; 'refund', for failures, had failed before",
        ),
    ],
)
def test_the_reason_says_what_there_was(
    policy: Policy, before: Mapping[str, str], reason: str
) -> None:
    assert decide(policy, "charge", before, ValueError(), RNG).reason == reason


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 50, "١"])  # noqa: RUF001
def test_a_count_that_cannot_be_read_counts_as_none(text: str) -> None:
    assert failures_of({FAILURES: text}) == 0


@pytest.mark.parametrize("text", ["", "x", "{}", "[1]", "[" * 10_000])
def test_flows_that_cannot_be_read_count_as_none(text: str) -> None:
    found = decide(Policy(on_failure="refund"), "charge", {FAILED: text}, ValueError(), RNG)
    assert found.failed == ("charge",)


def test_a_chain_of_flows_for_failures_comes_to_its_end() -> None:
    flows = ["a", "b", "c", "d"]
    sent_to = {"a": "b", "b": "c", "c": "b", "d": "a"}
    for first in flows:
        at, before, visited = first, marks(0), [first]
        while True:
            found = decide(Policy(on_failure=sent_to[at]), at, before, ValueError(), RNG)
            if found.do == "end":
                break
            at, before = found.to, marks(0, *found.failed)
            visited.append(at)
        assert len(visited) == len(set(visited))


def test_only_marks_of_failures_are_removed() -> None:
    kept = {"by": "me", FAILED: "[]", "flowstate.timer": "t"}
    assert without_failures({**kept, FAILURES: "3", ERROR: "x"}) == kept


# Texts of errors


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Code(enum.Enum):
    ODD = "\ud800"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("declined"), "ValueError: declined"),
        (ValueError(), "ValueError: "),
        (BrokenError(), "BrokenError, whose message raises RuntimeError"),
        (ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        (ValueError(Code.ODD.value), "ValueError: ?"),
        (ValueError("x" * 10_000_000), "ValueError: " + "x" * 1_012),
    ],
)
def test_the_text_of_an_error_can_be_stored(error: Exception, text: str) -> None:
    assert text_of(error) == text


@given(st.text(alphabet=st.characters(), max_size=3_000))
def test_a_note_of_any_text_has_room(text: str) -> None:
    note = Note.of_failure("here", ValueError(text)).encode()
    assert len(note.encode()) <= MAX_NOTE_BYTES
    check_annotations("annotations", {ERROR: text_of(ValueError(text))})


# What a state overrides


def test_overrides_add_up_and_are_removed_one_by_one() -> None:
    ctx = StateContext(State("a"))
    ctx.set_policy(attempts=5, timeout=3.0)
    ctx.set_policy(first=0.5, timeout=None)
    assert ctx.current.annotations == {POLICY: '{"attempts":5,"first":0.5}'}
    ctx.set_policy(on_failure="refund", attempts=None, first=None)
    assert ctx.current.annotations == {POLICY: '{"on_failure":"refund"}'}
    ctx.set_policy(on_failure=None)
    assert ctx.current.annotations == {}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"first": -1.0}, "first"),
        ({"factor": 0.1}, "factor"),
        ({"longest": math.nan}, "longest"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": "3"}, "timeout"),
        ({"on_failure": ""}, "on_failure"),
        ({"on_failure": "a\0"}, "on_failure"),
    ],
)
def test_bad_overrides_are_refused_and_change_nothing(changes: Any, field: str) -> None:
    ctx = StateContext(State("a"))
    ctx.set_policy(attempts=5)
    before = ctx.current
    with pytest.raises(InvalidInputError, match=f"^{field}: "):
        ctx.set_policy(**changes)
    assert ctx.current is before


@pytest.mark.parametrize(
    "text", ["", "x", "[]", '{"attempts":0}', '{"attempts":"3"}', '{"timeout":-1}', "[" * 10_000]
)
def test_an_override_that_cannot_be_read_counts_as_none(text: str) -> None:
    assert Policy(TWICE).of({POLICY: text}) == Policy(TWICE)
    ctx = StateContext(State("a", annotations={POLICY: text}))
    ctx.set_policy(attempts=2)
    assert read_override(ctx.current.annotations).attempts == 2


def test_a_newer_library_may_override_more() -> None:
    assert read_override({POLICY: '{"attempts":2,"rate":7}'}).attempts == 2


@pytest.mark.parametrize(
    ("policy", "text", "expected"),
    [
        (Policy(), '{"timeout":3}', Policy(timeout=3)),
        (Policy(timeout=9.0), '{"timeout":3}', Policy(timeout=3)),
        (Policy(), '{"attempts":7}', Policy(RetryPolicy(attempts=7))),
        (
            Policy(TWICE, on_failure="refund"),
            '{"factor":3,"longest":9}',
            Policy(
                RetryPolicy(attempts=3, first=5.0, jitter=False, factor=3, longest=9),
                on_failure="refund",
            ),
        ),
        (Policy(TWICE, on_failure="refund"), '{"on_failure":"ask"}', Policy(TWICE, None, "ask")),
    ],
)
def test_a_state_overrides_the_policy_of_its_flow(
    policy: Policy, text: str, expected: Policy
) -> None:
    assert policy.of({POLICY: text}) == expected
