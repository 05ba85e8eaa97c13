"""Each construct by itself, where generated programs do not go."""

from datetime import timedelta
from typing import Any

import attrs
import msgspec
import pytest

from flowstate.engines.kernel.operations import Call, Each, Go, Join, Run, Until, Wait
from flowstate.engines.workflow import (
    MarkError,
    Timeout,
    all_of,
    any_of,
    each,
    first,
    go,
    helper,
    sleep,
    step,
    sub,
    until,
    wait,
    workflow,
)
from flowstate.retrying import RetryPolicy
from tests.engines.compiler.driving import compiled, drive
from tests.engines.compiler.world import Data, number


class Yes(msgspec.Struct, tag=True):
    by: str


class No(msgspec.Struct, tag=True):
    why: str


@attrs.define
class Parcel:
    weight: int
    label: str = "none"


def pack(weight: int) -> Parcel:
    return Parcel(weight)


async def later(a: int) -> list[str]:
    return [str(a)]


@helper
async def counted(s: Data, most: int, *, by: int = 1) -> int:
    total = 0
    for i in range(0, most, by):
        total += await step(number, i)
    return total


@workflow("child")
async def child(s: Data) -> str:
    return "done" if await step(later, s.n) else ""


def test_a_step_is_asked_for_with_all_that_it_says() -> None:
    retry = RetryPolicy(attempts=2)

    @helper
    async def it(s: Data) -> Any:
        await step(number, s.n, timeout=timedelta(minutes=1), local=True, name="a", retry=retry)
        return await step(later, a=4, transaction=True)

    driven = drive(it, [1, ["x"]])

    one, other = driven.asked
    assert isinstance(one, Run)
    assert isinstance(other, Run)
    assert (one.name, one.call, one.args, one.kwargs) == ("a", number, (0,), {})
    assert (one.options.timeout, one.options.local, one.options.retry) == (60, True, retry)
    assert (other.name, other.args, other.kwargs) == ("later", (), {"a": 4})
    assert (one.options.gives, other.options.gives) == (int, list[str])
    assert other.options.transaction
    assert driven.result == ["x"]


def test_a_declared_type_is_that_of_the_value() -> None:
    driven = drive(compiled("a: list[float] = await step(number, 1)\nreturn a"), [[2]])

    assert driven.asked[0].options.gives == list[float]  # type: ignore[union-attr]


def test_a_message_is_matched() -> None:
    @helper
    async def it(s: Data) -> str:
        match await wait("answer", Yes, No, Timeout(minutes=2, hours=1)):
            case Yes(by=who):
                await step(number, 1)
                return who
            case No(why):
                return why
            case Timeout():
                return "late"
        return "?"

    assert drive(it, [Yes("anna"), 1]).result == "anna"
    assert drive(it, [No("dear")]).result == "dear"
    assert drive(it, [TimeoutError()]).result == "late"
    asked = drive(it).asked[0]
    assert isinstance(asked, Wait)
    assert (asked.name, list(asked.sources)) == ("answer", [Yes, No])
    assert asked.timeout == timedelta(hours=1, minutes=2)


def test_a_wait_without_a_timeout_among_its_sources_raises() -> None:
    @helper
    async def it(s: Data) -> str:
        try:
            message = await wait(Yes, timeout=timedelta(seconds=3))
        except TimeoutError:
            return "late"
        await sleep(2.5)
        await sleep(timedelta(days=1), name="night")
        await until(lambda data: data.n > 2)
        return message.by

    assert drive(it, [TimeoutError()]).result == "late"
    driven = drive(it, [Yes("bo"), None, None, None])
    assert driven.result == "bo"
    assert driven.stops == ["Yes", "sleep", "night", "until"]
    _, pause, night, condition = driven.asked
    assert (pause, night) == (
        Wait("sleep", (), timedelta(seconds=2.5)),
        Wait("night", (), timedelta(days=1)),
    )
    assert isinstance(condition, Until)
    assert not condition.condition(Data([], n=2))
    assert condition.condition(Data([], n=3))


def test_joins_have_branches() -> None:
    @helper
    async def it(s: Data) -> list[object]:
        both = await all_of(step(number, 1), step(later, 2, name="two"))
        some = await first(2, *[step(number, x) for x in s.xs])
        one = await any_of(wait(Yes), sleep(9), sub(counted, 3, by=2))
        await step(number, 5, name="last")
        return [both, some, one]

    driven = drive(it, [(1, ["a"]), (4, 5), 7, 0])

    both, some, one, _ = driven.asked
    assert isinstance(both, Join)
    assert isinstance(some, Join)
    assert isinstance(one, Join)
    assert [branch.name for branch in both.branches] == ["number", "two"]
    assert [branch.options.gives for branch in both.branches] == [int, list[str]]  # type: ignore[union-attr]
    assert (both.wanted, some.wanted, one.wanted) == (None, 2, 1)
    assert [branch.args for branch in some.branches] == [(1,), (2,), (3,)]  # type: ignore[union-attr]
    assert one.branches[2] == Call("counted", counted, {"most": 3, "by": 2})
    assert driven.result == [(1, ["a"]), (4, 5), 7]
    types = it.stops["last"].names
    assert types["both"] == tuple[int, list[str]]
    assert types["some"] == tuple[int, ...]
    assert types["one"] == Yes | None | int


def test_threads_children_and_helpers_are_named() -> None:
    @helper
    async def it(s: Data) -> list[str]:
        go(counted, 2)
        go(counted, most=3, name="again", thread="second")
        results = await each(child, [Data([x]) for x in s.xs], limit=7)
        await sub(counted, 1, name="last")
        return results

    driven = drive(it, [None, None, ["a", "b"], 3])

    assert driven.asked == [
        Go("counted", counted, {"most": 2}, ""),
        Go("again", counted, {"most": 3}, "second"),
        Each("child", child, [Data([1]), Data([2]), Data([3])], 7),
        Call("last", counted, {"most": 1}),
    ]
    assert driven.result == ["a", "b"]
    assert it.stops["child"].kind == "each"


def test_a_helper_has_arguments_with_defaults() -> None:
    driven = drive(counted, [5, 6, 7], most=3)

    assert driven.result == 18
    assert [bytes(frame.place["for i"]) for frame in driven.frames] == [
        b"[0,0,3,1]",
        b"[1,0,3,1]",
        b"[2,0,3,1]",
    ]
    assert drive(counted, [5, 6], most=3, by=2).result == 11


def test_uses_names_all_code_that_is_called() -> None:
    @helper
    async def middle(s: Data) -> None:
        await sub(counted, 3)
        await each(child, [])

    @workflow("top")
    async def top(s: Data) -> None:
        await sub(middle)

    assert dict(top.uses) == {"middle": middle, "counted": counted, "child": child}


def test_closures_are_read_and_private_names_are_mangled() -> None:
    factor = 3

    class Within:
        __limit = 2

        @helper
        async def it(s: Data) -> int:  # noqa: N805 - the data comes first
            __count = factor
            while __count < 5:
                __count += await step(number, __count)
            return __count + Within.__limit

    driven = drive(Within.it, [1, 1])

    assert driven.result == 7
    assert list(driven.frames[0].names) == ["__count"]


def test_nested_functions_change_names_around_them() -> None:
    code = compiled("""
count: int = 0
def add(n: int) -> None:
    nonlocal count
    count += n
add(2)
add(3)
await step(number, count)
def double() -> int:
    return count * 2
return double()
""")

    assert drive(code, [1]).result == 10


def test_the_value_of_a_class_that_attrs_has_made_is_stored() -> None:
    code = compiled(
        """
parcel = await step(pack, 3)
parcel.label = "x"
await step(number, parcel.weight)
return parcel
""",
        pack=pack,
    )

    driven = drive(code, [Parcel(3), 1])

    assert driven.result == Parcel(3, "x")
    raw = driven.frames[1].names["parcel"]
    assert msgspec.json.decode(raw) == {"weight": 3, "label": "x"}


def test_an_argument_that_cannot_be_evaluated_fails_at_the_stop() -> None:
    code = compiled("""
try:
    await step(number, s.xs[9])
except IndexError as error:
    log(s, error)
finally:
    log(s, "end")
""")

    driven = drive(code)

    assert driven.data.log == ["list index out of range", "end"]


def test_a_name_without_a_value_fails_where_it_is_read() -> None:
    code = compiled("""
if s.n:
    a = 1
await step(number, 1)
log(s, a)
""")

    error = drive(code, [1]).error

    assert isinstance(error, UnboundLocalError)
    assert code.stops["number"].optional == {"a"}


def test_a_stop_may_be_in_the_condition_of_anything() -> None:
    code = compiled("""
while (a := await step(number, 1, name="more")) and a < 3:
    if s.n or await step(number, 2, name="if"):
        assert await step(number, 3, name="assert"), "no"
    elif await step(number, 4, name="elif"):
        log(s, "elif")
return "yes" if a or await step(number, 5, name="last") else "no"
""")

    driven = drive(code, {"more": 0, "last": 0})
    assert driven.result == "no"
    driven = drive(code, [1, 0, 5, 2, 7, 0])
    assert driven.stops == ["more", "if", "elif", "more", "if", "assert"]
    assert isinstance(driven.error, AssertionError)
    assert driven.data.log == ["elif"]


def test_an_assert_that_pytest_has_rewritten_is_the_users_own() -> None:
    @helper
    async def it(s: Data) -> int:
        assert s.n < 3
        total = await step(number, 1)
        assert total == 4, "no"
        return total

    assert drive(it, [4]).result == 4
    error = drive(it, [5]).error
    assert isinstance(error, AssertionError)
    assert error.args == ("no",)


def test_marks_and_definitions_are_not_called() -> None:
    with pytest.raises(MarkError, match=r"step\(\.\.\.\) works only within a function with"):
        step(number, 1)
    with pytest.raises(MarkError, match=r"write await sub\(counted, \.\.\.\)"):
        _ = counted(Data([]), 3)


def test_many_entries_of_one_stop_ask_for_the_same() -> None:
    code = compiled("for x in s.xs:\n    log(s, x)\n    await step(number, x + s.n)")
    frame = drive(code).frames[0]

    assert [code.ask(frame, Data([1], n=n)).args for n in (5, 5, 6)] == [(6,), (6,), (7,)]  # type: ignore[union-attr]


def test_a_name_that_only_a_nested_function_binds_is_stored() -> None:
    body = """
d: int
def bind() -> None:
    nonlocal d
    d = 4
bind()
del bind
await step(number, 1)
return d
"""
    driven = drive(compiled(body), [0])

    assert driven.frames[0].names["d"] == msgspec.Raw(b"4")
    assert driven.result == 4
