"""The keywords by which schemas of documents say more than JSON Schema can, and say it better."""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from re import search
from typing import Any

from cronsim import CronSim, CronSimError
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import validator_for
from jsonschema_specifications import (  # type: ignore[import-untyped]
    REGISTRY as SPECIFICATIONS,
)
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from flowstate.engines.tasks.durations import seconds_of

__all__ = ["Fault", "KEYWORDS", "PLACES", "Path", "TYPES", "likely", "named", "parts_in", "shown"]

Path = tuple[str | int, ...]
Fault = tuple[Path, str]
"""Where something is wrong, and what."""

STANDARD: Mapping[str, Callable[..., Any]] = Draft202012Validator.VALIDATORS
TASK = "#/$defs/task"
PLACES = ("x-expression", "x-template", "x-use", "x-then", "task")
LONGEST = 80  # Of a value in a text.
MOST_NAMES = 50  # Among which a meant one is sought.
TYPES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def likely(name: str, known: Collection[str]) -> str:
    """Return what a wrong name was meant to be, for the end of a sentence."""
    if not known or len(known) > MOST_NAMES:
        return ""
    close = get_close_matches(name[:LONGEST], known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(sorted(known))}"


def named(value: Any) -> str:
    """Return what kind of value this is, for people; a number or boolean itself."""
    kinds: dict[type, str] = {dict: "object", list: "array", str: "string", type(None): "null"}
    kind = kinds.get(type(value))
    return TYPES[kind] if kind else repr(value).lower()


def shown(value: Any) -> str:
    """Return a value for the text of a problem, shortened."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:77]}..."


def parts_in(value: Any, without: str | None = None) -> Iterator[tuple[Path, Any]]:
    """Iterate over all parts of JSON, each after what has it; without objects with a key."""
    todo: list[tuple[Path, Any]] = [((), value)]
    for path, each in todo:
        if isinstance(each, dict):
            if without in each:
                continue
            todo += [((*path, key), item) for key, item in each.items()]
        elif isinstance(each, list):
            todo += [((*path, index), item) for index, item in enumerate(each)]
        yield path, each


def _fault(text: str, path: Any = ()) -> ValidationError:
    return ValidationError(text, path=path)


def _reference(validator: Any, ref: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Tasks are not entered here, so that what is nested deeply needs no deep stack."""
    if ref.endswith(TASK):
        yield ValidationError("", validator="task", instance=instance)
    else:
        yield from STANDARD["$ref"](validator, ref, instance, schema)


def _required(_: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                known = schema.get("properties", {}).get(name, {})
                why = known.get("description") or ""
                yield _fault(f"{name!r} is missing{': ' if why else ''}{why}")


def _closed(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if value is not False:
        yield from STANDARD["additionalProperties"](validator, value, instance, schema)
    elif isinstance(instance, dict):
        known = schema.get("properties", {})
        for name in instance:
            if name not in known:
                yield _fault(f"there is no field {name!r} here{likely(name, known)}", [name])


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    """Unlike in Python, a new line at the end of a text counts."""
    ends = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    if isinstance(instance, str) and not search(ends, instance):
        yield _fault("")


def _place(keyword: str) -> Callable[..., Iterator[ValidationError]]:
    def find(_: Any, value: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str):
            yield ValidationError("", validator=keyword, validator_value=value, instance=instance)

    return find


def _template(_: Any, value: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    for path, each in parts_in(instance):
        if isinstance(each, str) and "${" in each:
            keyword = "x-template"
            yield ValidationError("", keyword, path, validator_value=value, instance=each)


def _names(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[ValidationError]:
    seen: set[str] = set()
    for index, item in enumerate(instance if isinstance(instance, list) else ()):
        for name in item if isinstance(item, dict) else ():
            if name in seen:
                yield _fault(f"the name {name!r} stands twice in this list", [index, name])
            seen.add(name)


def _cases(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[ValidationError]:
    seen = False
    for index, item in enumerate(instance if isinstance(instance, list) else ()):
        for name, case in item.items() if isinstance(item, dict) else ():
            if isinstance(case, dict) and "when" not in case:
                if seen:
                    yield _fault("only one case can be without when", [index, name])
                seen = True


def _duration(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and "${" not in instance:
        try:
            seconds_of(instance)
        except ValueError:
            yield _fault(f'{shown(instance)} is no duration; write "PT15M", or minutes: 15')


def _cron(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str):
        try:
            CronSim(instance, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            yield _fault(f"{shown(instance)} is no cron expression: {error}")


def _json_schema(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[ValidationError]:
    """Hold it against the schema of schemas, and find what its references name."""
    if not isinstance(instance, dict | bool):
        yield _fault(f"a JSON Schema is an object, not {named(instance)}")
        return
    if isinstance(instance, dict) and not isinstance(instance.get("$schema", ""), str):
        yield _fault("must be a text", ["$schema"])
        return
    kind: Any = validator_for(instance, default=Draft202012Validator)
    try:
        kind.check_schema(instance)
    except SchemaError as error:
        yield _fault(f"this is no JSON Schema: {error.message}", error.absolute_path)
        return
    resource = DRAFT202012.create_resource(instance)
    resolver = SPECIFICATIONS.with_resource("", resource).resolver()
    for path, ref in _references(instance):
        try:
            resolver.lookup(ref)
        except (Unresolvable, ValueError, TypeError):
            yield _fault(f"{shown(ref)} is not in this schema, and is not fetched", path)


def _references(schema: Any) -> Iterator[tuple[Path, str]]:
    """Iterate over the references in a schema, but for those in what has an ``$id`` of its own."""
    for path, each in parts_in(schema, without="$id"):
        if isinstance(each, dict) and isinstance(ref := each.get("$ref"), str):
            yield (*path, "$ref"), ref


KEYWORDS: Mapping[str, Any] = {
    "$ref": _reference,
    "required": _required,
    "additionalProperties": _closed,
    "pattern": _pattern,
    **{each: _place(each) for each in ("x-expression", "x-use", "x-then")},
    "x-template": _template,
    "x-names": _names,
    "x-cases": _cases,
    "x-duration": _duration,
    "x-cron": _cron,
    "x-schema": _json_schema,
}
