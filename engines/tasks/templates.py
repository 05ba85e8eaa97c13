"""Where expressions are in the texts of a document."""

import re
from functools import lru_cache

__all__ = ["NO_SECRETS", "Program", "names_in", "pieces", "program_of"]

NO_SECRETS = "$secrets are for the arguments of call and run, and for conditions"
"""What is wrong with an expression that would have them stored."""

CLOSING = {"(": ")", "[": "]", "{": "}"}
NAME = re.compile(r"\$([A-Za-z_]\w*)")


class Program(str):
    """An expression in jq, without what encloses it."""

    __slots__ = ()


@lru_cache(maxsize=4_096)
def pieces(text: str) -> tuple[str, ...]:
    """Return the parts of a text: what is plain, and the ``Program`` in each ``${ }``."""
    found: list[str] = []
    at = 0
    while (start := text.find("${", at)) >= 0 and (end := _end(text, start + 2)) >= 0:
        found += [text[at:start], Program(text[start + 2 : end].strip())]
        at = end + 1
    found.append(text[at:])
    match found:
        case [before, Program() as program, after] if not (before + after).strip():
            return (program,)  # So its value keeps its type.
    return tuple(each for each in found if each or type(each) is Program) or ("",)


def _end(text: str, at: int) -> int:
    """Return where the brace is that ends an expression; -1: it does not end."""
    open_ = ["}"]
    while at < len(text):
        char, closing = text[at], open_[-1]
        if char == "\\" and closing == '"':
            at += 1
            if text[at : at + 1] == "(":
                open_.append(")")
        elif char == closing:
            open_.pop()
            if not open_:
                return at
        elif closing != '"' and char == '"':
            open_.append('"')
        elif closing != '"' and char in CLOSING:
            open_.append(CLOSING[char])
        at += 1
    return -1


@lru_cache(maxsize=4_096)
def program_of(text: str) -> Program:
    """Return the expression of a field that is always one, with ``${ }`` or without."""
    match pieces(text):
        case (Program() as program,):
            return program
    return Program(text)


@lru_cache(maxsize=4_096)
def names_in(program: str) -> frozenset[str]:
    """Return the variables that an expression mentions, without ``$``; perhaps some more."""
    return frozenset(NAME.findall(program))
