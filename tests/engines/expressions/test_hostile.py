"""Expressions that are meant to do harm."""

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions

MIB = 1024 * 1024
MEMORY = "too much memory"


async def outcome(expressions: Expressions, program: str, value: Any = None) -> Any:
    try:
        return await expressions.evaluate(program, value, {"x": 1})
    except ExpressionError as error:
        return f"{error}".removesuffix(f": {program[:200]}")


BOMBS = [
    ("last(range(1e15))", "takes more than"),
    ("def f: f; f", "takes more than"),
    ("[limit(1e9; repeat(1))] | length", ""),
    ("until(false; .)", "takes more than"),
    ("first(range(1e15) | select(. < 0))", "takes more than"),
    ("def f(x): f(x | x); f(1)", ""),
    ("[range(1e9)]", ""),
    ('"x" * 1e9', MEMORY),
    ('[limit(1e5; repeat("x")) | . * 1e5] | length', MEMORY),
    ('"x" | until(false; . + .)', MEMORY),
    (".[1e8] = 1 | length", ""),
    ("null | .[2e9] = 1", ""),
    ("reduce range(1e7) as $i (0; [.]) | 1", ""),
    ("def f: [f]; f", ""),
    ('("a" * 40 + "b") | test("^(a|a|aa)+$")', ""),
    ('("a" * 4000) | test("(.*)*(.*)*(.*)*x")', ""),
    ("range(infinite)", "more than 100 results"),
    ("repeat(1)", "more than 100 results"),
    ('"x" * 1e6', "more than 100000 bytes"),
    ('[range(99) | "x" * 2000] | .[]', "more than 100000 bytes"),
    ("[range(2e4)]", "more than 100000 bytes"),
    ("reduce range(201) as $i (0; [.])", "nested more than 200 deep"),
    ("reduce range(201) as $i (0; {a: .})", "nested more than 200 deep"),
    ("reduce range(20000) as $i (0; [.])", ""),
    ("[range(1e5) | tostring] | map({(.): 1}) | add | length", ""),
    ("[splits(1e9)]", "not a string"),
    ("[range(1e6)] | combinations", ""),
    ("[[range(30)] | combinations(30)] | length", ""),
    ('"x" * 1e6 | ltrimstr("x" * 1e6) | length', ""),
    ("[1e18 | implode]", ""),
    ("[-1, 1e9, 55555555] | implode", ""),
    ('"%" * 1e4 | @uri | @base64 | @json | length', ""),
    ("1e1000000000 | tojson | length", ""),
    ("pow(10; 400) | tostring", ""),
    ('"9" * 100000 | tonumber | . + 1', ""),
    ('now | strftime("%Y" * 100000)', ""),
    ('getpath(["a"] * 1000)', ""),
    ("walk(walk(walk(.)))", ""),
    ("$__loc__", ""),
    ("limit(-1; 1)", ""),
    ("[.[]?] | .[-1e9]", ""),
    ("ltrimstr(1) | @sh", ""),
    ('try error("\\($__loc__)") catch .', ""),
]


@pytest.mark.parametrize(("program", "expected"), BOMBS)
async def test_a_bomb_is_refused_or_harmless(program: str, expected: str) -> None:
    seconds = 0.05 if expected in {"", "takes more than"} else 5.0
    async with Expressions(
        workers=1, seconds=seconds, memory=16 * MIB, result=100_000, results=100
    ) as expressions:
        found = await outcome(expressions, program)
        assert expected in str(found)
        assert await expressions.evaluate(".", "still here") == "still here"


UNFINISHED = [
    "1) | (2",
    "1)|env|(1",
    "1) # ",
    "1\n)",
    "1]",
    "[1) | (2]",
    "1)|tojson",
    "1) , halt, (1",
    ") | (",
    "",
    " ",
    "# only a comment",
    "def f: 1;",
    '"\\(1',
    '"',
    "1 \0 2",
    "if true then 1",
    "(1",
    "1 as $y",
    '1) | ("\\(2)"',
    "%::wtf",
    "x" * 70_000,
    "(" * 20_000,
    "[" * 30_000 + "]" * 30_000,
    "-" * 30_000 + "1",
    ".a" * 20_000 + "(",
    "$__value",
    "$__prog_args",
]


async def test_what_is_no_whole_expression_is_refused() -> None:
    async with Expressions(workers=1, seconds=0.3) as expressions:
        for program in UNFINISHED:
            for attempt in (expressions.evaluate(program, None), expressions.check(program)):
                with pytest.raises(ExpressionError):
                    await attempt
        assert await expressions.evaluate(".", 1) == 1


OUTSIDE = [
    'import "a" as a; 1',
    'import "passwd" as $p {search: "/etc"}; $p',
    'include "a"; 1',
    'import "/etc/passwd" as $p; $p',
    '"a" | modulemeta',
    "env",
    "env.PATH",
    "input",
    "[inputs]",
    "input_filename",
    "input_line_number",
    "debug",
    'debug("x")',
    "stderr",
    "halt",
    "halt_error",
    "1 | halt_error(2)",
    "get_search_list",
]


async def test_nothing_outside_can_be_reached() -> None:
    async with Expressions(workers=1) as expressions:
        for program in OUTSIDE:
            found = await outcome(expressions, program)
            assert "is not allowed" in found or "syntax error" in found
            found = await outcome(expressions, f"try ({program}) catch 5")
            assert found == 5 or "syntax error" in found
            assert await expressions.evaluate("[1, 2] | .[]", None) == [1, 2]


async def test_a_worker_has_no_environment_no_files_and_no_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWSTATE_HIDDEN", "hunter2")
    async with Expressions(workers=1, memory=48 * MIB) as expressions:
        assert await expressions.evaluate("$ENV", None) == {}
        process = expressions._programs._slots[0].process
        assert process is not None
        folder = Path(f"/proc/{process._process.pid}")
        assert b"hunter2" not in (folder / "environ").read_bytes()
        assert str((folder / "cwd").readlink()).endswith(" (deleted)")
        opened = {str(each.readlink()).partition(":")[0] for each in (folder / "fd").iterdir()}
        assert opened == {"/dev/null", "socket"}
        for kind in ("NOFILE", "FSIZE", "CORE", "NPROC"):
            limits = resource.prlimit(process._process.pid, getattr(resource, f"RLIMIT_{kind}"))
            assert limits == (0, 0)
        most = resource.prlimit(process._process.pid, resource.RLIMIT_AS)[1]
        assert most == (48 + 128) * MIB
        assert os.getsid(process._process.pid) == process._process.pid


async def test_values_that_are_nested_deeply_do_no_harm() -> None:
    value: Any = 0
    for _ in range(5_000):
        value = [value]
    async with Expressions(workers=1) as expressions:
        assert "no JSON" in await outcome(expressions, ".", value)
        text = "[" * 199 + "]" * 199
        assert await outcome(expressions, "fromjson | tojson", text) == text
        assert "nested more" in await outcome(expressions, "fromjson", f"[[{text}]]")
        assert await outcome(expressions, '"[" * 300', None) == "[" * 300
        assert await outcome(expressions, '[range(300) | "[\\"{"]|length', None) == 300


async def test_one_bomb_does_not_stop_the_others() -> None:
    async with Expressions(workers=2, seconds=0.3) as expressions:
        bomb = asyncio.create_task(outcome(expressions, "last(range(1e15))"))
        for number in range(200):
            assert await expressions.evaluate(".", number) == number
        assert not bomb.done()
        assert "takes more than 0.3 s" in await bomb


def doubled(levels: int) -> Any:
    """Return a schema whose every level refers to the next one twice."""
    steps = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**steps, f"d{levels}": {}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 60 + "b", "takes more than"),
        ({"patternProperties": {"^(a|a)+$": {}}}, {"a" * 60 + "b": 1}, "takes more than"),
        (doubled(40), 1, "takes more than"),
        ({"$ref": "#"}, 1, "RecursionError"),
        ({"$ref": "http://127.0.0.1:9/x"}, 1, "Unresolvable"),
        ({"$ref": "file:///etc/passwd"}, 1, "Unresolvable"),
        ({"$dynamicRef": "#nothing"}, 1, "does not exist"),
        ({"pattern": "("}, "x", "is not a 'regex'"),
        ({"type": 5}, 1, "is not valid"),
        (7, 1, "TypeError"),
        ({"items": {"type": "string"}}, [1] * 10_000, "$[4]: 1 is not of type 'string'"),
        ({"const": "x" * 5_000}, "y" * 5_000, "$: 'xxxxx"),
        ({"multipleOf": 1e-300}, 1e300, "is not a multiple of"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "multipleOf": 0}, 1, "is less"),
        ({"uniqueItems": True}, [{"a": each} for each in range(100)], ""),
        ({"const": {"\ud800": 1}}, 1, "no JSON"),
    ],
)
async def test_a_schema_does_no_harm(schema: Any, value: Any, expected: str) -> None:
    async with Expressions(seconds=0.3) as expressions:
        try:
            found = "; ".join(await expressions.problems(schema, value))
        except ExpressionError as error:
            found = str(error)
        assert expected in found
        assert len(found) < 1_500
        assert await expressions.problems({"type": "object"}, {}) == []
