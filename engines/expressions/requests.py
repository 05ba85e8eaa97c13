"""What is sent to a worker: a program, wrapped, and what it is given."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.worker import HEAD, LENGTH

__all__ = ["check_request", "request_of", "schema_request"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MOST_PROGRAM = 65_536
REFUSED = (
    "env",
    "input",
    "inputs",
    "input_filename",
    "input_line_number",
    "debug",
    "debug(f)",
    "stderr",
    "halt",
    "halt_error",
    "halt_error(f)",
    "get_search_list",
    "modulemeta",
)
"""What jq has for files, the environment, other inputs, and the process; it fails here."""
PROLOGUE = "".join(f'def {each}: error("{each} is not allowed");' for each in REFUSED)

encode = msgspec.json.Encoder().encode


def request_of(program: str, value: Any, variables: Mapping[str, Any], most: int) -> bytes:
    """Return a request to evaluate a program; variables that it does not mention stay out of it.

    Raises:
        ExpressionError: the program is too long, or what it is given is no JSON, or has more
            than ``most`` bytes.
    """
    names, head = _head(program, tuple(variables))
    given = _given(program, [*(variables[name] for name in names), value], most)
    return _framed(head, given)


def check_request(program: str, names: Collection[str]) -> bytes:
    """Return a request to compile a program only.

    Raises:
        ExpressionError: the program is too long, or a name is none.
    """
    return _framed(_head(program, tuple(names))[1], b"")


def schema_request(schema: Any, value: Any, most: int) -> tuple[str, bytes]:
    """Return a schema as a text, and a request to validate a value by it.

    Raises:
        ExpressionError: they are no JSON, or have more than ``most`` bytes.
    """
    text = _given("a schema", schema, most)
    lengths = HEAD.pack(0, 0, len(text))[LENGTH.size :]
    program = text.decode()
    return program, _framed(lengths + text, _given(program, value, most))


def _given(program: str, value: Any, most: int) -> bytes:
    try:
        given = encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ExpressionError(program, f"is given what is no JSON ({error})") from None
    if len(given) > most:
        raise ExpressionError(program, f"is given more than {most} bytes")
    return given


def _framed(head: bytes, given: bytes) -> bytes:
    size = len(head) + LENGTH.size + len(given)
    return LENGTH.pack(size - LENGTH.size) + head + given


@lru_cache(4_096)
def _head(program: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], bytes]:
    """Return the variables that a program may mention, and its frame without the size of it."""
    text = _encoded(program)
    used = tuple(name for name in names if name in program)
    if wrong := [name for name in used if not NAME.fullmatch(name)]:
        raise ExpressionError(program, f"{wrong[0]!r} is no name of a variable")
    bound = f". as [{','.join('$' + name for name in used)}]|" if used else ""
    prologue = f"{PROLOGUE}{bound}.[{len(used)}]|".encode()
    lengths = HEAD.pack(0, len(prologue), len(text))[LENGTH.size :]
    return used, lengths + prologue + text


def _encoded(program: str) -> bytes:
    try:
        text = program.encode()
    except UnicodeEncodeError:
        raise ExpressionError(program, "is no text that can be encoded") from None
    if b"\0" in text:
        raise ExpressionError(program, "has a NUL character")
    if len(text) > MOST_PROGRAM:
        raise ExpressionError(program, f"has more than {MOST_PROGRAM} bytes")
    return text
