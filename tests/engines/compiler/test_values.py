"""Values are stored as their types say, or refused at the line of the stop."""

import pytest

from tests.engines.compiler.driving import compiled, drive


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("float('nan')", "must not contain NaN or an infinite number"),
        ("'\\0'", "must not contain NUL"),
    ],
)
def test_what_json_would_change_is_refused(value: str, reason: str) -> None:
    code = compiled(f"a: float | str | None = {value}\nawait step(number, 1)\nlog(s, a)")

    error = drive(code, [1]).error

    assert str(error) == f"'a' is alive at a stop and cannot be stored: {reason}"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[1, 'x']", "Expected `int`, got `str` - at `$[1]`"),
        ("{1: 2}", "Expected `array`, got `object`"),
        ("[1.5]", "Expected `int`, got `float` - at `$[0]`"),
    ],
)
def test_a_value_that_is_not_of_its_type_fails_at_the_line_of_the_stop(
    value: str, reason: str
) -> None:
    code = compiled(f"a: list[int] = {value}\nawait step(number, 1)\nlog(s, a)", "<value>")

    error = drive(code, [1]).error

    assert isinstance(error, TypeError)
    assert str(error) == f"'a' is alive at a stop and cannot be stored: {reason}"
    traceback = error.__traceback__
    assert traceback
    assert (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) == ("<value>", 8)


def test_a_value_is_after_a_stop_what_a_decode_gives() -> None:
    code = compiled("""
a: list[int] = (1, 2)
await step(number, 1)
log(s, a)
""")

    assert drive(code, [1]).data.log == ["[1, 2]"]
