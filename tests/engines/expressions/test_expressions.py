"""What expressions give, and how the pool of processes behaves."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.expressions.in_process import InProcessExpressions

POOLS = (Expressions, InProcessExpressions)
ENDLESS = "last(range(1e15))"


@pytest.fixture(params=POOLS)
async def expressions(request: pytest.FixtureRequest) -> AsyncIterator[Expressions]:
    async with request.param(workers=1) as opened:
        yield opened


async def failure(
    expressions: Expressions, program: str, value: Any = None, **variables: Any
) -> str:
    with pytest.raises(ExpressionError) as caught:
        await expressions.evaluate(program, value, variables)
    assert caught.value.program == program
    return str(caught.value)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def process_id(expressions: Expressions) -> int | None:
    """Return the id of the only worker process, if there is one."""
    process = expressions._programs._slots[0].process
    return process._process.pid if process is not None and process.is_open else None


async def started(expressions: Expressions) -> int:
    assert await expressions.evaluate("1", None) == 1
    found = process_id(expressions)
    assert found is not None
    return found


async def kill(expressions: Expressions, after: int | None = None) -> int:
    """Kill the process that comes after another one, while it is busy."""
    await until(
        lambda: not expressions._programs._free and process_id(expressions) not in (None, after)
    )
    found = process_id(expressions)
    assert found is not None
    os.kill(found, signal.SIGKILL)
    return found


async def is_busy(expressions: Expressions) -> None:
    await until(lambda: not expressions._programs._free and process_id(expressions) is not None)


async def test_an_expression_gives_no_result_one_or_several(expressions: Expressions) -> None:
    assert await expressions.evaluate("empty", 1) is None
    assert await expressions.evaluate(".a + $b", {"a": 1}, {"b": 2, "c": 3}) == 3
    assert await expressions.evaluate(".[]", [1, None]) == [1, None]
    assert await expressions.evaluate("[.[]]", []) == []


async def test_numbers_keep_what_they_are(expressions: Expressions) -> None:
    given = [1, 1.0, 0.1, 12345678901234567890123, -0.5, 1e300]
    assert repr(await expressions.evaluate(".", given)) == repr([*given[:-1], 1e300])
    assert await expressions.evaluate("nan", None) is None
    assert await expressions.evaluate("infinite", None) == 1.7976931348623157e308


@pytest.mark.parametrize(
    "program",
    [
        ". # a comment",
        ". # one that goes on in the next line \\",
        "def f: . ; f",
        ". as $x | $x",
        ". as [$a] ?// $a | .",
        '"\\(.)" | fromjson',
        "\n.\n",
        "label $out | ., break $out",
        "reduce . as $x (null; $x)",
        "if true then . end",
        "try error(.) catch .",
    ],
)
async def test_a_whole_program_is_one_expression(expressions: Expressions, program: str) -> None:
    assert await expressions.evaluate(program, 7) == 7


async def test_variables_may_have_any_identifier_as_their_name(expressions: Expressions) -> None:
    names = ["if", "end", "x1", "_", "__loc", "a", "aa", "input"]
    variables = {name: number for number, name in enumerate(names)}
    program = "[" + ",".join(f"${name}" for name in names) + "]"
    assert await expressions.evaluate(program, None, variables) == list(range(len(names)))
    assert await expressions.evaluate("{$a}", None, variables) == {"a": 5}
    assert "'a b' is no name of a variable" in await failure(expressions, "a b", **{"a b": 1})
    assert "$other is not defined" in await failure(expressions, "$other", **variables)


async def test_what_is_wrong_is_told_with_its_place(expressions: Expressions) -> None:
    assert "foo/1 is not defined at line 2" in await failure(expressions, ".\n| foo(1)")
    assert "at line 1" in await failure(expressions, ".a b")
    assert "Cannot index number" in await failure(expressions, ".a", 1)
    assert "no: " in await failure(expressions, '"no" | error')
    assert "is given what is no JSON" in await failure(expressions, ".", {1: {2, object()}})
    assert "is given what is no JSON" in await failure(expressions, ".", "\ud800")
    assert "no text" in await failure(expressions, "\ud800")
    with pytest.raises(ExpressionError, match=r"unexpected '\)'.* at the end: "):
        await expressions.check("$a |", ["a"])
    await expressions.check("$a | .b", ["a"])
    await expressions.check("error")


async def test_no_message_tells_a_secret(expressions: Expressions) -> None:
    secrets = {"token": "hunter2-hunter2"}
    for program in (
        "$secrets.token + 1",
        "$secrets | error",
        "$secrets.token[0]",
        "{$secrets} + 1",
    ):
        assert "hunter2" not in await failure(expressions, program, secrets=secrets)
    assert (
        await expressions.evaluate("$secrets.token", None, {"secrets": secrets}) == secrets["token"]
    )
    assert "hunter2" in await failure(expressions, "error", secrets["token"], secrets=secrets)


async def test_a_program_is_compiled_once_for_each_set_of_names(expressions: Expressions) -> None:
    for value in range(3):
        assert await expressions.evaluate("$b - $a", None, {"a": value, "b": 10}) == 10 - value
        assert await expressions.evaluate("$b - $a", None, {"b": 10, "a": value}) == 10 - value
    for number in range(1_100):  # More than are kept.
        assert await expressions.evaluate(f"{number}", None) == number
        if isinstance(expressions, Expressions) and number == 20:
            break
    assert await expressions.evaluate("$b - $a", None, {"a": 1, "b": 2}) == 1


async def test_a_value_is_validated_by_a_schema_of_any_draft(expressions: Expressions) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/small"}}, "required": ["b"]}
    schema["$defs"] = {"small": {"maximum": 3, "description": "é"}}
    assert await expressions.problems(schema, {"a": 3, "b": None}) == []
    wrong = ["$.a: 4 is greater than the maximum of 3", "$: 'b' is a required property"]
    assert sorted(await expressions.problems(schema, {"a": 4})) == sorted(wrong)
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMaximum": True}
    assert await expressions.problems({**old, "maximum": 3}, 3) != []
    assert await expressions.problems({**old, "maximum": 3}, 2) == []
    assert await expressions.problems(True, 1) == []
    assert await expressions.problems(False, 1) == ["$: False schema does not allow 1"]


async def test_large_values_pass_in_both_directions() -> None:
    async with Expressions(workers=1, result=4_000_000) as expressions:
        value = ["x" * 1_000] * 3_000
        assert await expressions.evaluate(".", value) == value
        assert await expressions.evaluate("length", value * 3) == 9_000
        too_large = await failure(expressions, ".", "x" * 20_000_000)
        assert "is given more than 16777216 bytes" in too_large


async def test_many_at_once_share_the_processes() -> None:
    async with Expressions(workers=2) as expressions:
        calls = (expressions.evaluate(". * 2", number) for number in range(300))
        assert await asyncio.gather(*calls) == [2 * number for number in range(300)]
        assert sum(slot.process is not None for slot in expressions._programs._slots) == 2


async def test_evaluations_that_wait_have_their_turn_in_order() -> None:
    order: list[int] = []

    async def evaluate(number: int) -> None:
        await pool.evaluate(".", number)
        order.append(number)
        if number < 50:  # They are there as soon as one is free, and still come last.
            await evaluate(number + 100)

    async with Expressions(workers=1) as pool:
        waiting = [asyncio.create_task(evaluate(number)) for number in range(100)]
        await asyncio.sleep(0)
        waiting.pop(70).cancel()
        await asyncio.gather(*waiting)
    assert order == [*range(70), *range(71, 100), *range(100, 150)]


async def test_a_process_starts_only_when_it_is_needed() -> None:
    async with Expressions(workers=3) as expressions:
        assert [slot.process for slot in expressions._programs._slots] == [None] * 3
        for number in range(3):
            assert await expressions.evaluate(".", number) == number
        assert sum(slot.process is not None for slot in expressions._programs._slots) == 1


async def test_what_waits_too_long_in_a_queue_is_refused() -> None:
    async with Expressions(workers=1, waiting=2, seconds=0.3) as expressions:
        first = asyncio.create_task(failure(expressions, ENDLESS))
        await is_busy(expressions)
        others = [asyncio.create_task(expressions.evaluate(".", each)) for each in range(2)]
        await asyncio.sleep(0)
        assert "2 others wait" in await failure(expressions, ".")
        assert "takes more than 0.3 s" in await first
        assert await asyncio.gather(*others) == [0, 1]


async def test_a_process_that_is_killed_while_it_is_idle_is_replaced() -> None:
    async with Expressions(workers=1) as expressions:
        first = await started(expressions)
        os.kill(first, signal.SIGKILL)
        assert await expressions.evaluate(".", 1) == 1
        assert await started(expressions) != first


async def test_what_a_killed_process_was_asked_is_tried_once_more() -> None:
    async with Expressions(workers=1, seconds=30) as expressions:
        asked = asyncio.create_task(expressions.evaluate("reduce range(3e5) as $x (0; $x)", 0))
        first = await kill(expressions)
        assert await asked == 299_999
        failing = asyncio.create_task(failure(expressions, ENDLESS))
        second = await kill(expressions, first)
        await kill(expressions, second)
        assert "crashes its process" in await failing
        assert await expressions.evaluate(".", 2) == 2


async def test_a_process_that_is_stopped_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstate.engines.expressions.process.START", 0.2)
    async with Expressions(workers=1, seconds=0.1) as expressions:
        os.kill(await started(expressions), signal.SIGSTOP)
        assert "takes more than" in await failure(expressions, ".")
        assert await expressions.evaluate(".", 2) == 2


async def test_a_cancelled_caller_leaves_the_pool_as_it_was() -> None:
    async with Expressions(workers=1, seconds=0.2) as expressions:
        starting = asyncio.create_task(expressions.evaluate(".", 1))
        await asyncio.sleep(0)
        starting.cancel()
        assert await expressions.evaluate(".", 2) == 2
        running = asyncio.create_task(expressions.evaluate(ENDLESS, None))
        await is_busy(expressions)
        waiting = [asyncio.create_task(expressions.evaluate(".", 3)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in (running, waiting[0]):
            task.cancel()
        assert await waiting[1] == 3
        assert await expressions.evaluate("[., .]", 4) == [4, 4]
        assert len(expressions._programs._free) == 1


async def test_a_closed_pool_ends_its_processes_and_what_waits() -> None:
    async with Expressions(workers=1) as expressions:
        process = await started(expressions)
        tasks = [asyncio.create_task(expressions.evaluate(ENDLESS, 1)) for _ in range(3)]
        await is_busy(expressions)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(each) for each in outcomes] == [RuntimeError] * 3
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(RuntimeError):
        await expressions.evaluate(".", 1)
    async with expressions:
        assert await expressions.evaluate(".", 1) == 1


async def test_a_pool_closes_while_a_process_starts() -> None:
    async with Expressions(workers=2) as expressions:
        tasks = [asyncio.create_task(expressions.evaluate(".", each)) for each in range(3)]
        await asyncio.sleep(0)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(each) for each in outcomes] == [RuntimeError] * 3


async def test_a_fork_cannot_use_the_pool_of_its_parent() -> None:
    async with Expressions(workers=1) as expressions:
        assert await expressions.evaluate(".", 1) == 1
        child = os.fork()
        if not child:
            try:
                expressions.evaluate(".", 1).send(None)
            except RuntimeError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7  # noqa: ASYNC222 - it ends at once
        assert await expressions.evaluate(".", 2) == 2


async def test_the_processes_end_with_the_one_that_has_started_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "from flowstate.engines.expressions.expressions import Expressions\n"
        "async def main():\n"
        "    async with Expressions(workers=2, seconds=0.2) as expressions:\n"
        "        await expressions.evaluate('1', None)\n"
        "        asyncio.create_task(expressions.evaluate('last(range(1e15))', None))\n"
        "        await asyncio.gather(*(expressions.evaluate('1', None) for _ in range(2)))\n"
        "        slots = expressions._programs._slots\n"
        "        print(*(slot.process._process.pid for slot in slots), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE
    )
    workers = [int(each) for each in (await parent.communicate())[0].split()]
    assert len(workers) == 2
    await until(lambda: not any(is_running(each) for each in workers))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_other_event_loops_do_as_well() -> None:
    async def evaluate() -> Any:
        async with Expressions(workers=1, seconds=0.1) as expressions:
            assert "takes more than" in await failure(expressions, ENDLESS)
            return await expressions.evaluate(".", ["x" * 1_000] * 500)

    assert uvloop.run(evaluate()) == ["x" * 1_000] * 500
