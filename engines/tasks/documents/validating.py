"""Holds a document against its JSON Schema: says what is wrong, and finds what else is to check.

The schemas have keywords of their own. Some find faults that JSON Schema cannot tell, such as a
name that stands twice in a list; the others find places: expressions (``x-expression``: the whole
text, ``x-template``: within any value), references (``x-use``, ``x-then``), and tasks.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from importlib.resources import files
from typing import Any

import attrs
import jsonschema.validators
import msgspec
from jsonschema import Draft202012Validator, ValidationError
from msgspec import Struct
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from flowstate.engines.tasks.documents.keywords import KEYWORDS, PLACES, TYPES, Path, named, shown

__all__ = ["Found", "KINDS", "Path", "Shape", "kind_of", "shape_of"]

KINDS = (
    *("call", "do", "emit", "for", "fork", "listen"),
    *("raise", "run", "set", "switch", "try", "wait"),
)


class Found(Struct, frozen=True):
    """A place that needs a further check.

    Attributes:
        keyword: what is there: one of ``PLACES``.
        value: of the keyword.
        path: of the place.
        instance: what is there.
    """

    keyword: str
    value: Any
    path: Path
    instance: Any


@attrs.define
class Shape:
    """What a schema tells about a value.

    Attributes:
        problems: path and text of what is wrong.
        found: places for further checks.
    """

    problems: list[tuple[Path, str]] = attrs.field(factory=list)
    found: list[Found] = attrs.field(factory=list)

    def tasks(self) -> dict[Path, Mapping[str, Any]]:
        """Return the tasks that are objects, by path."""
        tasks = {each.path: each.instance for each in self.found if each.keyword == "task"}
        return {path: task for path, task in tasks.items() if isinstance(task, dict)}

    def wrong(self) -> AbstractSet[Path]:
        """Return the paths of all problems, and of what encloses them."""
        return {path[:end] for path, _ in self.problems for end in range(len(path) + 1)}


def shape_of(value: Any, name: str) -> Shape:
    """Hold a value against a schema, ``workflow`` or ``machine``; its tasks one by one."""
    shape = Shape()
    todo: list[tuple[Path, Any, str]] = [((), value, f"{name}.json")]
    while todo:
        path, instance, schema = todo.pop()
        try:
            todo += _tasks_in(instance, schema, path, shape)
        except RecursionError:
            shape.problems.append((path, "is nested too deeply"))
    return shape


def kind_of(task: Mapping[str, Any]) -> str | None:
    """Return of which kind a task is; ``None`` unless that is clear."""
    kinds = _kinds(task)
    return kinds[0] if len(kinds) == 1 else None


def _kinds(task: Mapping[str, Any]) -> list[str]:
    return [each for each in KINDS if each in task and not (each == "do" and "for" in task)]


def _tasks_in(
    instance: Any, schema: str, path: Path, shape: Shape
) -> Iterator[tuple[Path, Any, str]]:
    """Add what is wrong and what was found to a shape, and give the tasks in it."""
    typed = set()
    for error in _validator(schema).iter_errors(instance):
        at = (*path, *error.absolute_path)
        if error.validator in PLACES:
            shape.found.append(Found(error.validator, error.validator_value, at, error.instance))
        elif error.validator != "type" or at not in typed:
            typed |= {at} if error.validator == "type" else set()
            shape.problems.append((at, _text(error)))
        if error.validator == "task" and (kind := _kind(error.instance, at, shape)):
            yield at, error.instance, f"workflow.json#/$defs/{kind}Task"


def _kind(task: Any, path: Path, shape: Shape) -> str | None:
    """Return the kind of a task; say what is wrong if that is not clear."""
    if not isinstance(task, dict):
        text = f"must be an object, a task, not {named(task)}"
    elif kind := kind_of(task):
        return kind
    elif kinds := _kinds(task):
        text = f"is {len(kinds)} tasks in one: {' and '.join(kinds)}; keep one of them"
    else:
        text = f"is no task: write one of {', '.join(KINDS)}"
    shape.problems.append((path, text))
    return None


@cache
def _validator(schema: str) -> Any:
    folder = files(__package__) / "schemas"
    registry: Registry[Any] = Registry()
    for name in ("workflow.json", "machine.json"):
        content = msgspec.json.decode((folder / name).read_bytes())
        del content["$schema"]  # By which the validator would leave out its own keywords.
        registry = registry.with_resource(name, DRAFT202012.create_resource(content))
    extend: Any = jsonschema.validators.extend
    return extend(Draft202012Validator, KEYWORDS)({"$ref": schema}, registry=registry)


def _text(error: ValidationError) -> str:
    """Return what is wrong, and what to write."""
    value: Any = error.validator_value
    says = error.schema.get("errorMessage") if isinstance(error.schema, Mapping) else None
    match error.validator:
        case "type":
            text = _wrong_type([value] if isinstance(value, str) else value, error.instance, says)
        case "enum":
            text = f"must be one of {', '.join(value)}, not {shown(error.instance)}"
        case "const":
            text = f"must be {value!r}"
        case "pattern":
            text = f"{shown(error.instance)} is not right: {says}"
        case "minimum" | "maximum" as limit:
            text = f"must be {value} or {'more' if limit == 'minimum' else 'less'}"
        case "minItems" | "minProperties" if not error.instance and not says:
            text = "must not be empty"
        case "dependentRequired":
            text = "until is for any only"
        case keyword:
            text = error.message if keyword in KEYWORDS else str(says or error.message)
    return text


def _wrong_type(kinds: list[str], instance: Any, says: str | None) -> str:
    if kinds == ["string"] and isinstance(instance, int | float):
        says = "put quotes around it"
    wanted = " or ".join(TYPES[each] for each in kinds)
    return f"must be {wanted}, not {named(instance)}{'; ' if says else ''}{says or ''}"
