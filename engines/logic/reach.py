"""Finds what a machine can run: what its functions name, and nothing else a store may say."""

import builtins
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["Known", "is_code", "name_of", "reached", "signature"]

Known = Mapping[str, Any]
"""What a machine can run, by the names that a store has for it."""


signature = lru_cache(maxsize=512)(inspect.signature)


def is_code(value: Any) -> bool:
    """Return whether something is code with instances of its own, such as a machine."""
    return hasattr(type(value), "go_on") and getattr(value, "data", None) is not None


def name_of(what: Any) -> str:
    """Return what a function or code is called in a store."""
    if is_code(what):
        return str(what.name)
    return f"{getattr(what, '__module__', '')}.{getattr(what, '__qualname__', what)}"


def reached(functions: Iterable[Any], more: Iterable[Any]) -> dict[str, Any]:
    """Return functions and code by name: those that functions name, also by helpers next to them.

    Args:
        functions: of the states.
        more: what they do not name.
    """
    waiting = [inspect.unwrap(each) for each in functions]
    modules, seen = {each.__module__ for each in waiting}, set[Any]()
    found = {name_of(each): each for each in more}
    for function in waiting:
        if function in seen or not isinstance(function, FunctionType):
            continue
        seen.add(function)
        for each in _named(function):
            found.setdefault(name_of(each), each)
            if isinstance(each, FunctionType) and each.__module__ in modules:
                waiting.append(inspect.unwrap(each))
    return found


def _named(function: FunctionType) -> Iterator[Any]:
    closure = inspect.getclosurevars(function).nonlocals
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    known: Mapping[str, Any] = {**vars(builtins), **function.__globals__}
    values = [known[name] for name in names if name in known] + [*closure.values()]
    owners = [each for each in values if isinstance(each, ModuleType | type)]
    values += [getattr(each, name) for each in owners for name in names & vars(each).keys()]
    yield from (each for each in values if isinstance(each, FunctionType) or is_code(each))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)
