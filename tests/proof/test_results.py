"""Results say what was found, and what says nothing; a process that a bug ruins is ended."""

import os

import msgspec
import pytest

from tests.proof.bug import Bug, Trial
from tests.proof.catalogue import bug_named
from tests.proof.results import Attempt, Result, markdown, table
from tests.proof.running import GRACE_SECONDS, attempted

BUG = bug_named("watches_pass_holes")
FOUND = Attempt("conformance", "some case", 2.0)
NOTHING = Attempt("programs", "", 8.0)
BROKEN = Attempt("histories", "", 0.0, "ended with -9")


@pytest.mark.parametrize(
    ("attempts", "is_control", "is_good"),
    [
        ((NOTHING, FOUND), False, True),
        ((NOTHING,), False, False),
        ((FOUND, BROKEN), False, False),
        ((NOTHING,), True, True),
        ((NOTHING, FOUND), True, False),
        ((BROKEN,), True, False),
    ],
)
def test_what_is_good(attempts: tuple[Attempt, ...], is_control: bool, is_good: bool) -> None:
    assert Result(BUG, attempts, is_control).is_good is is_good


def test_tables() -> None:
    results = [Result(BUG, (NOTHING, FOUND, BROKEN)), Result(BUG, (NOTHING,))]

    assert table(results).splitlines() == [
        "bug                 where  found by     seconds",
        "watches_pass_holes  core   conformance     10.0",
        "watches_pass_holes  core   nothing             ",
    ]
    assert markdown(results).splitlines() == [
        "| bug | conformance | programs | histories | simulation | tests |",
        "|---|---|---|---|---|---|",
        "| watches_pass_holes | 2.0 s | no | error |  |  |",
        "| watches_pass_holes |  | no |  |  |  |",
    ]


def unknown() -> Bug:
    return msgspec.structs.replace(BUG, name="no such bug")


async def test_a_process_that_fails_has_found_nothing() -> None:
    attempt = await attempted(unknown(), Trial("conformance"), os.environ)

    assert (attempt.how, attempt.error[:12]) == ("", "ended with 1")


async def test_a_process_that_does_not_end_is_ended() -> None:
    at_once = Trial("conformance", seconds=-GRACE_SECONDS, limit=0.1)

    attempt = await attempted(BUG, at_once, os.environ)

    assert (attempt.how, attempt.error) == ("", "did not end within 0 seconds")
