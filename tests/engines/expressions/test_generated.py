"""Programs that are made up give what jq gives in this process."""

import json
from importlib import import_module
from random import Random
from typing import Any

import pytest

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions

LEAVES = [
    ".", ".a", ".b?", ".[0]?", ".[]?", "$x", "$yy", "$x.a?", "empty", "null", "1", "-7", "1e3",
    "0.10", "true", "{}", '"t"', "[]", "12345678901234567890", "{$x}", "@json", "[.[]?]", "..",
    "$__loc__.line", "nan",
]  # fmt: skip
FORMS = [
    "(@ | @)", "(@, @)", "(@ + @)", "(@ == @)", "(@ // @)", "[@]", "(@ | length)", "(@ | tojson)",
    "{a: @, (@): 1}", "(try (@) catch @)", "(if @ then @ else @ end)", "(@ as $x | @)",
    "(@ | type)", "(@ | keys)", "(reduce (@) as $yy (null", "[., @]))", "([limit(3", "@)])",
    "(@ | tostring)", "(@?)", '"-\\(@)-"', "(@ | error)", "(first(@))", "(@ and @)", "(@ | sort)",
    "(@ | not) # end\n", "(@ | to_entries)", "(@ * 3)", "(@ as [$x, $yy] | @)",
    "(label $out | @, break $out, @)", "(@ | fromjson)", "-(@)", "(@ | map(@))", "(@ | .a = @)",
    "(@ | del(.a))", "(@ | [paths])", "(@ | @base64)", "@[@:@]", "(",
]  # fmt: skip
TEXTS = ("", "a", "0", 'é\u2028"\\', "\0", "😀", "null", '{"a": [1]}')


def program_of(random: Random, depth: int) -> str:
    if depth == 0 or random.random() < 0.2:
        return random.choice(LEAVES)
    parts = random.choice(FORMS).split("@")
    if len(parts) == 1 or parts[1][:4] in ("json", "base"):
        return parts[0] if len(parts) == 1 else "@".join(parts)
    text = parts[0]
    for part in parts[1:]:
        text += program_of(random, depth - 1) + part
    return text


def value_of(random: Random, depth: int = 3) -> Any:
    match random.randrange(10 if depth else 6):
        case 0:
            return random.choice([None, True, False])
        case 1 | 2:
            return random.choice([0, -1, 7, 2**53 + 1, 2**70, -(2**63)])
        case 3:
            return random.choice([0.1, 1.0, -1e-9, 1e200, random.random()])
        case 4 | 5:
            return random.choice(TEXTS)
        case 6 | 7:
            return [value_of(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            names = (random.choice(["a", "b", *TEXTS]) for _ in range(random.randrange(4)))
            return {name: value_of(random, depth - 1) for name in names}


def plainly(program: str, value: Any, variables: dict[str, Any]) -> Any:
    """Return what jq gives, with variables as its package passes them."""
    jq = import_module("jq")
    names = "".join(f"{json.dumps(each)} as ${name} | " for name, each in variables.items())
    compiled = jq.compile(f"{names} (\n{program}\n) | tojson")
    found = [json.loads(each) for each in compiled.input_text(json.dumps(value)).all()]
    return found[0] if len(found) == 1 else found or None


@pytest.mark.parametrize(
    ("start", "count"),
    [(1, 250), pytest.param(1_000_000, 10_000, marks=pytest.mark.nightly)],
)
async def test_made_up_programs_give_what_jq_gives(start: int, count: int) -> None:
    failed = 0
    async with Expressions(workers=1) as expressions:
        for seed in range(start, start + count):
            random = Random(seed)
            program = program_of(random, 3)
            value, variables = value_of(random), {name: value_of(random) for name in ("x", "yy")}
            try:
                expected = plainly(program, value, variables)
            except ValueError:
                failed += 1
                with pytest.raises(ExpressionError):
                    await expressions.evaluate(program, value, variables)
            else:
                found = await expressions.evaluate(program, value, variables)
                assert repr(found) == repr(expected), (seed, program, value, variables)
    assert failed < count * 0.8
