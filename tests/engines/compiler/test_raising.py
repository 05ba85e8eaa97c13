"""Errors that are alive at a stop, and ways through ``finally``."""

import pytest

from tests.engines.compiler.driving import compiled, drive
from tests.engines.compiler.world import Alpha, Beta


def test_one_error_at_two_levels_stays_one() -> None:
    code = compiled("""
try:
    try:
        raise Beta(3)
    except Beta as inner:
        inner.add_note("a note")
        try:
            raise
        finally:
            await step(number, 1)
except Alpha as outer:
    log(s, outer.args, outer.__notes__, outer.__context__)
""")

    driven = drive(code, [1])

    assert driven.data.log == ["(3,) ['a note'] None"]
    place = driven.frames[0].place
    assert bytes(place["except 1"]) == b"0"
    assert bytes(place["finally 1"]) == b'{"exit":"raise","error":0}'


def test_what_an_error_comes_from_is_kept() -> None:
    code = compiled("""
try:
    try:
        await step(number, 1, name="fails")
    except KeyError as error:
        raise Beta(1) from error
except Alpha as caught:
    await step(number, 2)
    raise
""")
    error = KeyError("key")
    error.__context__ = OSError(2, "before")

    raised = drive(code, [error, 1]).error

    assert isinstance(raised, Beta)
    assert isinstance(raised.__cause__, KeyError)
    assert raised.__context__ is raised.__cause__
    before = raised.__cause__.__context__
    assert isinstance(before, OSError)
    assert before.errno == 2


def test_an_error_can_be_kept_in_a_name() -> None:
    code = compiled("""
last: Exception | None = None
for i in range(2):
    try:
        await step(number, i)
    except Alpha as error:
        last = error
await step(number, 3, name="after")
raise last
""")

    driven = drive(code, [Beta(4), 1, 1])

    assert isinstance(driven.error, Beta)
    assert driven.error.args == (4,)


def test_an_error_whose_class_cannot_be_found_is_refused_where_it_is_alive() -> None:
    class Local(Exception):  # noqa: N818 - short
        pass

    code = compiled(
        "try:\n    raise Local(1)\nexcept Local:\n    await step(number, 1)", Local=Local
    )

    error = drive(code, [1]).error

    assert isinstance(error, TypeError)
    assert "Local is alive at a stop and cannot be stored" in str(error)


def test_what_returns_from_a_finally_wins() -> None:
    code = compiled("""
for i in range(3):
    try:
        return await step(number, i)
    finally:
        if await step(number, 9, name="check"):
            continue
return -1
""")

    assert drive(code, [1, 0]).result == 1
    driven = drive(code, [1, 1, 2, 1, 3, 0])
    assert driven.result == 3
    assert bytes(driven.frames[1].place["finally 1"]) == b'{"exit":"return","value":1}'


def test_what_is_read_after_a_break_is_stored_in_the_finally_before() -> None:
    code = compiled("""
while True:
    c = await step(number, 1)
    try:
        if c > 3:
            break
    finally:
        await step(number, 2, name="last")
return c
""")

    assert drive(code, [1, 0, 7, 0]).result == 7


@pytest.mark.parametrize("leave", ["return 7", "continue", "break", "raise Alpha(1)"])
def test_every_way_through_two_finallys_is_taken_again(leave: str) -> None:
    code = compiled(f"""
for i in range(2):
    try:
        try:
            if await step(number, i):
                {leave}
            log(s, "not left")
        finally:
            await step(number, 2, name="inner")
    finally:
        log(s, await step(number, 3, name="outer"))
return "end"
""")

    driven = drive(code, [1, 1, 1, 0, 1, 2])

    exit_, *_ = leave.split()
    inner, outer = (driven.frames[at].place["finally 1"] for at in (1, 2))
    assert bytes(inner) == bytes(outer)
    assert f'"exit":"{exit_}"'.encode() in bytes(inner)
    ends = {"return": [7, ["1"]], "break": ["end", ["1"]], "raise": [None, ["1"]]}
    ends["continue"] = ["end", ["1", "not left", "2"]]
    assert [driven.result, driven.data.log] == ends[exit_]
    assert isinstance(driven.error, Alpha) == (exit_ == "raise")
