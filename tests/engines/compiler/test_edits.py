"""Edits of a definition while instances of it live: valid, or found before they run on."""

from typing import Any

import msgspec
import pytest

from flowstate.engines.kernel.code import At, Frame, MisfitError, Returned
from flowstate.engines.kernel.operations import Gave
from flowstate.engines.workflow import Held, Helper, helper
from tests.engines.compiler.driving import compiled, drive
from tests.engines.compiler.world import Data

BEFORE = """
a = await step(number, 1, name="one")
for x in s.xs:
    b = await step(number, x, name="two")
    log(s, a + b)
return a
"""


def frames(code: Helper[Any]) -> dict[str, Frame]:
    driven = drive(code, [5, 6, 7, 8])
    return {frame.stop: frame for frame in driven.frames}


def goes_on(code: Helper[Any], frame: Frame) -> Any:
    code.check(frame)
    data = Data([1, 2, 3], log=[])
    code.ask(frame, data)
    reached = code.go_on(frame, data, Gave(9))
    return reached.frame.stop if isinstance(reached, At) else reached


REST = BEFORE.split("\n", 2)[2]

VALID = {
    "stop added before": 'await step(number, 0, name="zero")' + BEFORE,
    "stop added after": BEFORE.replace("return a", 'return await step(number, a, name="z")'),
    "stop moved into an expression": BEFORE.replace(
        'a = await step(number, 1, name="one")', 'a = 3 + (await step(number, 1, name="one"))'
    ),
    "live name dropped": BEFORE.replace("a + b", "b").replace("return a", "return 0"),
    "wrapped in if": (
        'if s.n == 0:\n    a = await step(number, 1, name="one")\nelse:\n    a = 0\n' + REST
    ),
    "wrapped in try": (
        'try:\n    a = await step(number, 1, name="one")\nexcept KeyError:\n    a = 0\n' + REST
    ),
    "wrapped in while": (
        'while True:\n    a = await step(number, 1, name="one")\n    break\n' + REST
    ),
}


@pytest.mark.parametrize("edit", VALID)
def test_instances_stay_valid(edit: str) -> None:
    stored = frames(compiled(BEFORE))

    code = compiled(VALID[edit])

    assert goes_on(code, stored["one"]) == "two"
    assert goes_on(code, stored["two"])


STRANDED = {
    "stop renamed": (
        BEFORE.replace("two", "twice"),
        "two",
        "it: has no stop 'two'; its stops: one, twice",
    ),
    "local name renamed": (
        BEFORE.replace("a ", "c ").replace("return a", "return c"),
        "two",
        "it: stop 'two' needs 'c', which is not stored; what is stored: a, x",
    ),
    "new live name": (
        "n: int = 3" + BEFORE.replace("a + b", "a + n"),
        "one",
        "it: stop 'one' needs 'n', which is not stored; what is stored: nothing",
    ),
    "wrapped in for": (
        'for i in range(1):\n    a = await step(number, 1, name="one")\n' + REST,
        "one",
        "it: stop 'one' now stands within 'for i'",
    ),
    "moved into except": (
        'a = 1\ntry:\n    s.xs[9]\nexcept IndexError:\n    a = await step(number, 1, name="one")\n'
        + REST,
        "one",
        "it: stop 'one' now stands within 'except 1'",
    ),
    "moved out of for": (
        BEFORE.replace("for x in s.xs:", "if x := 3:"),
        "two",
        "it: stop 'two' no longer stands within 'for x'",
    ),
    "another kind of loop": (
        BEFORE.replace("for x in s.xs:", "for x in range(3):"),
        "two",
        "it: stop 'two': its place cannot be read: Expected `array`, got `int`",
    ),
    "another type": (
        BEFORE.replace("a = await", "a: list[int] = await").replace("a + b", "a"),
        "two",
        "it: stop 'two': 'a' is stored, but cannot be read: Expected `array`, got `int`",
    ),
}


@pytest.mark.parametrize("edit", STRANDED)
def test_instances_that_do_not_fit_are_found(edit: str) -> None:
    text, stop, reason = STRANDED[edit]
    stored = frames(compiled(BEFORE))[stop]
    code = compiled(text)

    for ask in (
        lambda: code.check(stored),
        lambda: code.ask(stored, Data([1])),
        lambda: code.go_on(stored, Data([1]), Gave(1)),
    ):
        with pytest.raises(MisfitError) as raised:
            ask()
        assert str(raised.value) == reason


def test_old_names_go_on_under_new_ones() -> None:
    stored = frames(compiled(BEFORE))
    text = BEFORE.replace("two", "twice").replace("a ", "c ").replace("return a", "return c")
    text = text.replace("for x in", "for item in").replace("number, x", "number, item")
    names = {"two": "twice", "a": "c", "x": "item"}

    code = helper(renamed=names)(compiled(text).function)

    assert goes_on(code, stored["one"]) == "twice"
    assert goes_on(code, stored["two"]) == Returned(5)


def test_a_stop_that_its_place_does_not_lead_to_is_found() -> None:
    code = compiled("x = s.n + await step(number, 1)\nlog(s, x)")
    (frame,) = drive(code).frames

    class Without(msgspec.Struct):
        """Data that has lost what the line reads before the stop."""

    with pytest.raises(MisfitError, match="the stop 'number' was not reached from its place"):
        code.go_on(frame, Without(), Gave(1))


def test_arguments_that_are_missing_are_found() -> None:
    @helper
    async def it(s: Data, a: int, b: int = 2) -> int:
        return a + b

    with pytest.raises(MisfitError, match="it: the argument 'a' is not there"):
        it.begin(Frame("it"), Data([]))
    with pytest.raises(MisfitError, match="'a' is stored, but cannot be read"):
        it.check(Frame("it", "", {"a": msgspec.Raw(b'"x"')}))


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("except LookupError as e:", ""),
        ("except (KeyError, IndexError) as e:", ""),
        ("except:", ""),
        ("except KeyError as e:", "its except catches no IndexError"),
    ],
)
def test_a_stop_in_another_except_is_found(handler: str, why: str) -> None:
    before = 'try:\n    s.xs[9]\nexcept IndexError as e:\n    await step(number, 1, name="one")'
    (frame,) = drive(compiled(before)).frames

    code = compiled(before.replace("except IndexError as e:", handler))

    if not why:
        assert goes_on(code, frame) == Returned(None)
        return
    with pytest.raises(MisfitError, match=why):
        code.check(frame)


ENTERED = """
from flowstate.engines.workflow import lock as mutex
from flowstate.engines.workflow import lock
"""
HELD = Held("a", "k", "i", "main", number=3)


def test_code_that_is_put_into_an_async_with_needs_what_is_entered() -> None:
    (frame,) = drive(compiled("await step(number, 1)"), []).frames
    code = compiled("async with lock('a'):\n    await step(number, 1)", head=ENTERED)

    with pytest.raises(MisfitError, match=r"needs '\.lock', which is not stored"):
        code.check(frame)


def test_a_manager_with_another_name_goes_on() -> None:
    before = compiled("async with lock('a'):\n    await step(number, 1)", head=ENTERED)
    _, frame = drive(before, [HELD]).frames
    after = compiled("async with mutex('a'):\n    await step(number, 1)", head=ENTERED)
    names = {"lock": "mutex", "lock-leave": "mutex-leave", ".lock": ".mutex"}

    assert goes_on(helper(renamed=names)(after.function), frame) == "mutex-leave"
