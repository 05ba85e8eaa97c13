"""Documents and values that are wrong in a way that cannot be foreseen."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

__all__ = ["mutated_leaves", "mutated_text", "mutated_tree", "value_of"]

TOKENS = [
    "&a ", "*a", "*b ", "!!python/object/apply:os.system ", "!x ", "<<: *a", "---\n", "...\n",
    "\t", "{", "}", "[", "]", ": ", "- ", "%YAML 1.1\n", "? ", "|\n", ">-\n", "\u2028", "\0", "'",
    '"', "#", " #", "@", "`", "\r", "\ufeff", "é", "\U0001f600", ",", "null", "~", ".nan", "0x1g",
    "on: ", "${ ", " }", "\n", "  ", "9" * 400, "1e999", "x" * 2_000,
]  # fmt: skip
EXPRESSIONS = [
    "${", "${ }", "${ . }", "${ empty }", "${ 1, 2 }", "${ error }", '${ error({a: "b"}) }',
    "${ last(range(1e15)) }", "${ [range(1e9)] }", "${ range(infinite) }", '${ "x" * 1e9 }',
    "${ env }", "${ $ENV }", "${ $secrets }", "${ input }", "${ 1) | (2 }", "${ halt }",
    "${ reduce range(5000) as $i (0; [.]) }", "${ $context }", "${ $input }", "${ $task }",
    "${ $workflow }", "${ $nothing }", '${ "x" * 500000 }', "${ def f: f; f }", "${ now }",
    "${ null }", "${ -1 }", "${ [] }", "${ {} }", "a ${ .a } b", '${ import "a" as a; 1 }',
    '${ "\\(.)" }', '${ "\\u0000" }', "${ 1e400 }", "${ nan }", "${ false }", "${ .a.b.c }",
]  # fmt: skip
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 2**64 - 1, -(2**63), 1e308, 0.1, "", " ", "x", "\0",
    "x" * 5_000, [], {}, [[]], [{}], {"": {}}, {"a": 1}, ["a", "b"], {"~1/": 1}, "/do/0", "..",
    "P", "PT", "PT0S", "PT0.001S", "P1Y", "P1D", "P99999999999D", "PT1e9S", "-PT1S", "PT1S",
    {"seconds": -1}, {"days": 1e300}, {"seconds": 0}, {"milliseconds": 1}, {"hours": "1"},
    "continue", "exit", "end", "first", "file:///etc/passwd", "http://169.254.169.254/latest",
    "http://127.0.0.1:9/", "https://[::1]/", "http://2130706433/", "https://x{y}", "${", "{x}",
    "1.0.3", "1.0.0-alpha1", "9.9.9", "* * * * *", "@daily", "61 * * * *", "../x", "a:b@c",
    "(?<n>(a+)+)$", "https://open-workflow-specification.org/spec/1.0.0/errors/timeout",
    "2026-01-01T00:00:00Z",
    {"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"pattern": "(a+)+$"},
    {"uri": "${ . }"}, {"use": "nothing"}, {"from": "PT1S", "to": "PT0S"}, {"$ref": "http://x/y"},
]  # fmt: skip
NAMES = [
    "do", "for", "in", "each", "at", "while", "fork", "branches", "compete", "try", "catch",
    "as", "when", "exceptWhen", "retry", "delay", "backoff", "limit", "attempt", "count",
    "jitter", "raise", "error", "errors", "type", "status", "run", "shell", "script",
    "container", "workflow", "call", "with", "method", "endpoint", "uri", "body", "headers",
    "query", "output", "redirect", "set", "switch", "then", "wait", "seconds", "listen", "to",
    "one", "any", "all", "until", "read", "foreach", "item", "emit", "event", "source", "data",
    "correlate", "from", "expect", "if", "input", "schema", "document", "format", "export",
    "timeout", "after", "use", "secrets", "functions", "extensions", "extend", "before",
    "authentications", "catalogs", "schedule", "cron", "every", "on", "evaluate", "mode",
    "language", "dsl", "namespace", "name", "version", "metadata", "states", "start", "final",
    "transitions", "poll", "db", "rpc", "http", "message", "function", "", "a b", "~", "/",
    "<<", "$ref", "0", "__proto__",
]  # fmt: skip


def value_of(random: Random, depth: int = 3) -> Any:
    """Return any JSON, as an input."""
    match random.randrange(8 if depth else 5):
        case 0 | 1:
            return random.choice(JUNK)
        case 2:
            return random.choice(EXPRESSIONS)
        case 3:
            return random.choice([0, 1, -7, 0.5, 1e300, True, None])
        case 4:
            return random.choice(["", "a", "\u2028", "0", "\U0001f600" * 20])
        case 5:
            return [value_of(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            size = random.randrange(5)
            return {random.choice([*NAMES, "a"]): value_of(random, depth - 1) for _ in range(size)}


def mutated_text(random: Random, text: str) -> str:
    """Return a text with some of its characters changed."""
    for _ in range(random.choice([1, 1, 2, 5])):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice([0, 1, 1, 5, 40, 400]))
        put = random.choice(
            ["", random.choice(TOKENS), text[start:end] * 2, random.choice(EXPRESSIONS)]
        )
        text = text[:start] + put + text[end:]
    return text


def mutated_leaves(random: Random, value: Any) -> str:
    """Return a document as JSON, with expressions in some places that had others, or a text."""
    root = [deepcopy(value)]
    leaves = [
        (parent, key)
        for parent, key in _places(root)
        if isinstance(parent[key], str) and "document" not in (key, parent)
    ]
    texts = [parent[key] for parent, key in leaves]
    for parent, key in random.choices(leaves, k=random.choice([1, 2, 4])) if leaves else ():
        parent[key] = random.choice(texts) if random.random() < 0.2 else random.choice(EXPRESSIONS)
    return json.dumps(root[0])


def mutated_tree(random: Random, value: Any) -> str:
    """Return a document as JSON, with some of its values changed."""
    root = [deepcopy(value)]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(root))
        parent, key = random.choice(places)
        _change(random, parent, key, places)
    return json.dumps(root[0])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(items):
        yield value, key
        if isinstance(each, dict | list):
            yield from _places(each)


def _change(random: Random, parent: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    match random.randrange(9):
        case 0 | 1:
            parent[key] = random.choice(JUNK)
        case 2 | 3:
            parent[key] = random.choice(EXPRESSIONS)
        case 4:
            other, place = random.choice(places)
            if isinstance(other, dict) == (place in other if isinstance(other, dict) else False):
                parent[key] = deepcopy(other[place])
        case 5:
            if len(parent) > 1:
                del parent[key]
        case 6 if isinstance(parent, dict):
            parent[random.choice(NAMES)] = parent.pop(key)
        case 7 if isinstance(parent, dict):
            parent[random.choice(NAMES)] = value_of(random, 2)
        case 8:
            parent[key] = random.choice([[parent[key]], {random.choice(NAMES): parent[key]}])
        case _:
            parent.append(deepcopy(parent[key])) if isinstance(parent, list) else None
