"""Compiles the expressions of a document, each with the variables that it may use."""

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.tasks.documents.keywords import Fault, Path, likely, shown
from flowstate.engines.tasks.documents.places import bound_in, used, variables_at
from flowstate.engines.tasks.documents.validating import Found, Shape
from flowstate.engines.tasks.templates import NO_SECRETS, Program, names_in, pieces, program_of

__all__ = ["expression_faults"]

Names = frozenset[str]
BATCH, PER_PROGRAM = 20_000, 200  # Characters.
SECRET = re.compile(r'\$secrets\s*(?:\.\s*"?|\[\s*")([\w-]+)')


async def expression_faults(
    content: Any, shape: Shape, expressions: Expressions
) -> AsyncIterator[Fault]:
    """Iterate over what is wrong with the expressions of a document."""
    tasks, secrets = shape.tasks(), used(content, "secrets")
    anywhere = bound_in(tasks)
    places: dict[tuple[Names, str], list[Path]] = {}
    for each in shape.found:
        if each.keyword in {"x-expression", "x-template"}:
            programs, rest = _programs(each)
            if "${" in rest:
                yield each.path, f"an expression in {shown(each.instance)} is not closed by a brace"
            known = variables_at(content, each.path, each.value, tasks, anywhere)
            for program in programs:
                places.setdefault((known, program), []).append(each.path)
    wrong = await _wrong(places, expressions)
    for (known, program), paths in places.items():
        text = wrong.get((known, program), "")
        missing = [each for each in SECRET.findall(program) if each not in secrets]
        if not text and "secrets" in known and missing:
            text = f"there is no secret {missing[0]!r} in use.secrets{likely(missing[0], secrets)}"
        for path in paths if text else ():
            yield path, text


async def _wrong(
    programs: Iterable[tuple[Names, str]], expressions: Expressions
) -> Mapping[tuple[Names, str], str]:
    """Return what is wrong with programs, as far as something is."""
    of_names: dict[Names, list[str]] = {}
    for known, program in programs:
        of_names.setdefault(known, []).append(program)
    wrong: dict[tuple[Names, str], str] = {}
    for known, found in of_names.items():
        for batch in _batches(found):
            if not await _compile(batch, known, expressions):
                wrong |= {(known, each): await _why(each, known, expressions) for each in batch}
    return wrong


def _batches(programs: Iterable[str]) -> Iterator[list[str]]:
    """Group programs: jq takes about as long for one as for many."""
    batch: list[str] = []
    size = 0
    for program in programs:
        if batch and size + len(program) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(program)
        size += len(program) + PER_PROGRAM
    if batch:
        yield batch


async def _compile(programs: Sequence[str], known: Names, expressions: Expressions) -> bool:
    """Return whether all programs compile. None can close brackets of both kinds to get out."""
    try:
        for start, end in ("()", "[]"):
            whole = ",\n".join(f"{start}\n{each}\n\n{end}" for each in programs)
            await expressions.check(whole, sorted(known))
    except ExpressionError:
        return False
    return True


async def _why(program: str, known: Names, expressions: Expressions) -> str:
    """Return what is wrong with an expression; empty: nothing."""
    if "secrets" in names_in(program) - known:
        return NO_SECRETS
    try:
        await expressions.check(program, sorted(known))
    except ExpressionError as error:
        unknown = names_in(program) - known
        hint = f"; of variables there is ${', $'.join(sorted(known))}" if unknown and known else ""
        why = str(error).removesuffix(f": {program[:200]}")
        return f"{shown(program)} is no expression: {why}{hint}"
    return ""


def _programs(found: Found) -> tuple[list[str], str]:
    """Return the expressions of a text, and what is between them."""
    if found.keyword == "x-expression" and not found.instance.lstrip().startswith("${"):
        return [program_of(found.instance)], ""
    parts = pieces(found.instance)
    rest = "".join(each for each in parts if not isinstance(each, Program))
    return [each for each in parts if isinstance(each, Program)], rest
