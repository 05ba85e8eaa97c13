"""Loads documents, and says all that is wrong with them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal

import attrs

from flowstate.engines.tasks.documents.checking import faults
from flowstate.engines.tasks.documents.compiling import expression_faults
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.graphs import graph_faults
from flowstate.engines.tasks.documents.keywords import Path
from flowstate.engines.tasks.documents.machines import Translation
from flowstate.engines.tasks.documents.reading import MOST_BYTES, Source, read
from flowstate.engines.tasks.documents.validating import Shape, shape_of
from flowstate.engines.tasks.errors import DocumentError, Problem
from flowstate.engines.tasks.pointers import pointer_of
from flowstate.engines.tasks.runtime import Runtime

__all__ = ["check_files", "load"]

MOST_PROBLEMS = 100
LONG = 8_192  # Characters that take about 0.1 seconds.


async def load(
    text: str, *, file: str = "", runtime: Runtime, was_loaded: bool = False
) -> Document:
    """Return the document that a text is, in YAML or JSON.

    Args:
        text: of at most 1 MiB.
        file: where it is from, for errors.
        runtime: in which it is to run. What it cannot run is refused.
        was_loaded: the same text was loaded before, so its expressions, which take most of the
            time, need not be compiled once more.

    Raises:
        DocumentError: with all that is wrong, up to 100 problems.
    """
    if len(text) > LONG:
        examined = await asyncio.to_thread(_examined, text, runtime)
    else:
        examined = _examined(text, runtime)
    if not was_loaded:
        expressions = expression_faults(examined.source.value, examined.shape, runtime.expressions)
        examined.wrong += [each async for each in expressions]
    problems = examined.problems()
    if examined.document is None or problems:
        raise DocumentError(file, problems)
    return examined.document


async def check_files(paths: Iterable[FilePath], runtime: Runtime) -> Sequence[DocumentError]:
    """Return an error for each file that is no document which the runtime can run."""
    errors, keys = [], set[str]()
    for path in paths:
        try:
            text = await asyncio.to_thread(_text_of, path)
            key = (await load(text, file=str(path), runtime=runtime)).key
            if key in keys:
                text = f"another file has {key}, too; give one of them another version"
                raise DocumentError(str(path), [Problem(1, "/document", text)])
            keys.add(key)
        except DocumentError as error:
            errors.append(error)
    return errors


def _text_of(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return content.decode("utf-8-sig", "strict" if len(content) <= MOST_BYTES else "replace")
    except UnicodeDecodeError as error:
        raise DocumentError(str(path), [Problem(1, "", "the file is not UTF-8")]) from error
    except OSError as error:
        raise DocumentError(str(path), [Problem(1, "", str(error.strerror))]) from error


@attrs.define
class _Examined:
    """What is found out about a text, but for its expressions."""

    source: Source
    shape: Shape = attrs.field(factory=Shape)
    wrong: list[tuple[Path, str]] = attrs.field(factory=list)
    document: Document | None = None

    def problems(self) -> list[Problem]:
        """Return all that is wrong, in the order of the lines; if it is too much, a part."""
        lines = self.source.lines
        found = {_problem(path, text, lines) for path, text in self.wrong}
        problems = sorted({*self.source.problems, *found})
        if len(problems) > MOST_PROBLEMS:
            more = f"{len(problems) - MOST_PROBLEMS} more"
            problems[MOST_PROBLEMS:] = [Problem(problems[MOST_PROBLEMS].line, "", more)]
        return problems


def _examined(text: str, runtime: Runtime) -> _Examined:
    found = _Examined(read(text))
    source, value, kind = found.source, found.source.value, _kind(found.source.value)
    if source.problems:
        return found
    found.shape = places = shape_of(value, kind)
    found.wrong += found.shape.problems
    translation = None
    if kind == "machine":
        found.wrong += [] if found.wrong else graph_faults(value)
        if found.wrong:
            return found
        translation = Translation(value)
        places = shape_of(translation.content, "workflow")
    found.document = _document(source, text, translation)
    for path, fault in faults(found.document, places, runtime):
        found.wrong.append((translation.origin(path) if translation else path, fault))
    return found


def _kind(value: Any) -> Literal["workflow", "machine"]:
    return "machine" if isinstance(value, dict) and value.get("kind") == "machine" else "workflow"


def _document(source: Source, text: str, translation: Translation | None) -> Document:
    content, lines = source.value, source.lines
    if translation is not None:
        content = translation.content
        lines = {
            pointer_of(path): lines[_known(pointer_of(origin), lines)]
            for path, origin in translation.origins.items()
        }
    about = content.get("document") if isinstance(content, dict) else None
    unnamed = {"namespace": "", "name": "", "version": "0.0.0"}
    namespace, name, version = (
        str(about.get(each, default)) if isinstance(about, dict) else default
        for each, default in unnamed.items()
    )
    return Document(
        _kind(source.value), namespace, name, version, content, source.value, text, lines
    )


def _problem(path: Path, text: str, lines: Mapping[str, int]) -> Problem:
    place = _known(pointer_of(path), lines)
    return Problem(lines[place], place, text)


def _known(place: str, lines: Mapping[str, int]) -> str:
    """Return the innermost place around another, that the text has."""
    while place not in lines:
        place = place.rpartition("/")[0]
    return place
