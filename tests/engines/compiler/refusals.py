"""What cannot be compiled: programs, and the problems that they have."""

from collections.abc import Iterator
from typing import Any, TypeVar

from flowstate.engines.workflow import lock

__all__ = ["FIRST", "NAMES", "TABLE"]

FIRST = 7  # The line of the first statement of a body.


def untyped(a: int):  # type: ignore[no-untyped-def] # noqa: ANN202 - that is the point
    return a


def lines(a: int) -> Iterator[str]:
    yield str(a)


T = TypeVar("T")


def same(a: T) -> T:
    return a


class Opaque:
    pass


def opaque() -> Opaque:
    return Opaque()


NAMES: dict[str, Any] = {
    "lock": lock,
    "untyped": untyped,
    "lines": lines,
    "same": same,
    "opaque": opaque,
    "Opaque": Opaque,
}

TWICE = "comes before a stop in one expression, so it would be evaluated twice"
GO = ("go is a statement of its own", "write it on a line of its own, not awaited")
LOOP = "write a for loop, or all_of(*[step(...) for ...])"
HELPER = "make it a function of its own with @helper, and await sub(...)"
ITSELF = "write it into the function itself"
SEES = ("sees names that the compiler has put there", "name the values that it is to see")
TAKES = "give it the arguments that it takes"
WAITS = ("would wait without a stop", "do it in a step")
ENTERS = ("would wait without a stop", "do it in a step, or write a Manager for it")
STORE = "store what it gives in a name first"
NAME = "store it in a name on a line before"


def alive(line: int) -> str:
    return f"is alive at the stop 'number' on line {FIRST + line}, and "


# The body, and of each problem: line of the body, name, reason, fix.
TABLE: dict[str, tuple[str, list[tuple[int, str, str, str]]]] = {
    "another await": (
        "await other()",
        [
            (
                1,
                "other()",
                "only stops are awaited in a definition",
                "write await step(function, ...)",
            )
        ],
    ),
    "no await": (
        "step(number, 1)",
        [(1, "step(number, 1)", "is not awaited", "write await step(number, 1)")],
    ),
    "await go": (
        "await go(inner)",
        [(1, "go(inner)", *GO)],
    ),
    "a value of go": (
        "a = go(inner)",
        [(1, "go(inner)", *GO)],
    ),
    "two in one expression": (
        "a = (await step(number, 1, name='a')) + await step(number, 2, name='b')",
        [(1, "step(number, 2, name='b')", "is the second stop in one expression", STORE)],
    ),
    "a call before": (
        "a = number(1) + await step(number, 2)",
        [(1, "number(1)", TWICE, NAME)],
    ),
    "an index before": (
        "s.xs[0] += await step(number, 2)",
        [(1, "s.xs[0]", TWICE, NAME)],
    ),
    "a chain of comparisons": (
        "a = 1 < s.n < await step(number, 2)",
        [(1, "1 < s.n < await step(number, 2)", TWICE, NAME)],
    ),
    "comprehension": (
        "a = [await step(number, v) for v in s.xs]",
        [(1, "step(number, v)", "a stop cannot stand in a comprehension", LOOP)],
    ),
    "generator": (
        "a = list(await step(number, v) for v in s.xs)",
        [(1, "step(number, v)", "a stop cannot stand in a generator", LOOP)],
    ),
    "lambda": (
        "a = lambda: step(number, 1)",
        [(1, "step(number, 1)", "a stop cannot stand in a lambda", ITSELF)],
    ),
    "nested function": (
        "async def f() -> int:\n    return await step(number, 1)",
        [(2, "step(number, 1)", "a stop cannot stand in a nested function", HELPER)],
    ),
    "condition of a case": (
        "match s.n:\n    case 1 if await step(number, 1):\n        pass",
        [(2, "step(number, 1)", "a stop cannot stand in a case, or its condition", STORE)],
    ),
    "except*": (
        "try:\n    await step(number, 1)\nexcept* ValueError:\n    pass",
        [
            (
                2,
                "step(number, 1)",
                "a stop cannot stand in except*",
                "catch the group with except, and look at its exceptions",
            )
        ],
    ),
    "with": (
        "with open('x') as f:\n    await step(number, 1)",
        [
            (
                2,
                "step(number, 1)",
                "a stop cannot stand in with",
                "leave the with before the stop, or do its work in a step",
            )
        ],
    ),
    "async with": (
        "async with s:\n    pass",
        [(1, "async with", *ENTERS)],
    ),
    "async with of what is no manager": (
        "async with open('x'):\n    pass",
        [(1, "async with", *ENTERS)],
    ),
    "what is entered is bound": (
        "async with lock('a') as held:\n    held = 3",
        [
            (
                1,
                "held",
                "is what the async with is left with, so it must stay one name",
                "write a name after as, and do not bind it within",
            )
        ],
    ),
    "async for": (
        "async for x in s:\n    pass",
        [(1, "async for", *WAITS)],
    ),
    "async comprehension": (
        "a = [x async for x in s]",
        [(1, "async for", *WAITS)],
    ),
    "raise": (
        "raise await step(number, 1)",
        [(1, "step(number, 1)", "a stop cannot stand in raise", STORE)],
    ),
    "target": (
        "s.xs[await step(number, 1)] = 2",
        [(1, "step(number, 1)", "a stop cannot stand in the target of an assignment", STORE)],
    ),
    "a name bound by an argument": (
        "await step(number, (a := 1))",
        [
            (
                1,
                "a",
                "is bound by the arguments of a stop, which are evaluated by themselves",
                "bind it on a line before",
            )
        ],
    ),
    "too few arguments": (
        "await step(number)",
        [(1, "number", "missing a required argument: 'a'", TAKES)],
    ),
    "an argument of another name": (
        "await sub(inner, b=2)",
        [(1, "inner", "got an unexpected keyword argument 'b'", TAKES)],
    ),
    "await within the arguments": (
        "await step(number, await step(number, 1, name='other'))",
        [(1, "step(number, 1, name='other')", "is the second stop in one expression", STORE)],
    ),
    "two stops of one name": (
        "await step(number, 1)\nawait step(number, 2)",
        [
            (
                2,
                "number",
                f"is the name of the stop on line {FIRST} already",
                'write name="number-2" into its call',
            )
        ],
    ),
    "name of no literal": (
        "await step(number, 1, name=s.n)",
        [
            (
                1,
                "s.n",
                "is no name of a stop",
                "write a text in quotes: letters, digits, _ and -, at most 100, a letter first",
            )
        ],
    ),
    "no name": (
        "await step(lambda: 1)",
        [(1, "step(lambda: 1)", "has no name for its stop", 'write name="..." into its call')],
    ),
    "no helper": (
        "await sub(number, 1)",
        [
            (
                1,
                "number",
                "is not the name of a helper or a workflow",
                "decorate the function with @helper",
            )
        ],
    ),
    "no workflow": (
        "await each(inner, s.xs)",
        [
            (
                1,
                "inner",
                "is not the name of a workflow",
                'decorate the function with @workflow("...")',
            )
        ],
    ),
    "a text as the class of a message": (
        "await wait('there', 'Box')",
        [
            (
                1,
                "'Box'",
                "is not the class of a message",
                'write wait("name of the stop", Class, ...)',
            )
        ],
    ),
    "a wait for nothing": (
        "await wait('there')",
        [
            (
                1,
                "wait('there')",
                "waits for nothing",
                'write wait("name of the stop", Class, ...)',
            )
        ],
    ),
    "a step without a return type": (
        "a = await step(untyped, 1)\nawait step(number, 1)\nlog(s, a)",
        [
            (
                1,
                "a",
                alive(1) + "its type is not known",
                "write a: ... = ... with a type that JSON can hold, or annotate the function",
            )
        ],
    ),
    "timeout in a branch": (
        "await any_of(wait(Box, Timeout(hours=1)), sleep(3))",
        [(1, "Timeout", "stands in a branch", "write any_of(wait(...), sleep(...))")],
    ),
    "locals": (
        "a = locals()",
        [(1, "locals()", *SEES)],
    ),
    "the data is bound": (
        "s = Data([])",
        [
            (
                0,
                "s",
                "is the data, which all threads share",
                "change its attributes; do not bind the name",
            )
        ],
    ),
    "the name of an error is bound": (
        "try:\n    pass\nexcept ValueError as e:\n    e = 3\n    await step(number, 1)",
        [(3, "e", "is bound again within its except, which has a stop", "use another name there")],
    ),
    "unknown type": (
        "a = untyped(1)\nawait step(number, 1)\nlog(s, a)",
        [
            (
                1,
                "a",
                alive(1) + "its type is not known",
                "write a: ... = ... with a type that JSON can hold",
            )
        ],
    ),
    "type variable": (
        "a = same(1)\nawait step(number, 1)\nlog(s, a)",
        [
            (
                1,
                "a",
                alive(1) + "its type ~T cannot be stored: a type variable",
                "write a: ... = ... with a type that JSON can hold",
            )
        ],
    ),
    "list of what": (
        "a = []\nawait step(number, 1)\na.append(2)",
        [
            (
                1,
                "a",
                alive(1) + "its type is not known",
                "write a: ... = ... with a type that JSON can hold",
            )
        ],
    ),
    "no type of JSON": (
        "a = opaque()\nawait step(number, 1)\nlog(s, a)",
        [
            (
                1,
                "a",
                alive(1) + "its type Opaque cannot be stored: Opaque is no type of JSON",
                "write a: ... = ... with a type that JSON can hold",
            )
        ],
    ),
    "function": (
        "def f() -> int:\n    return 1\nawait step(number, 1)\nlog(s, f())",
        [
            (
                1,
                "f",
                alive(2) + "its type is not known",
                "define it after the stop, or outside of the function",
            )
        ],
    ),
    "module": (
        "import json\nawait step(number, 1)\nlog(s, json.dumps(1))",
        [(1, "json", alive(1) + "its type is not known", "import it at the top of the file")],
    ),
    "two declarations": (
        "a: int = 1\na: str = ''",
        [(2, "a", "is declared as int before", "declare one type, or use two names")],
    ),
    "declaration that cannot be evaluated": (
        "a: Missing = 1",
        [(1, "a", "'Missing' cannot be evaluated", "import the type")],
    ),
    "loop over what is not known": (
        "for x in lines(1):\n    await step(number, 1)",
        [
            (
                1,
                "lines(1)",
                "the loop has a stop, and it is not known to go over a list",
                "go over a name with a type: items: list[...] = list(...)",
            )
        ],
    ),
    "all at once": (
        "await other()\na = untyped(1)\nawait step(number, 1)\nlog(s, a, locals())",
        [
            (
                1,
                "other()",
                "only stops are awaited in a definition",
                "write await step(function, ...)",
            ),
            (
                2,
                "a",
                alive(2) + "its type is not known",
                "write a: ... = ... with a type that JSON can hold",
            ),
            (
                4,
                "locals()",
                *SEES,
            ),
        ],
    ),
}
