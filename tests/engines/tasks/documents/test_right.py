"""Documents that have every task and every field are taken as they are."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema.validators
import msgspec
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from flowstate.engines.tasks.calls.databases import Database
from flowstate.engines.tasks.documents.reading import read
from flowstate.engines.tasks.documents.validating import shape_of
from tests.engines.tasks.documents.loads import ALL, HERE, loaded

COMMON = ("if", "input", "output", "export", "timeout", "then", "metadata")
RIGHT = sorted((HERE / "right").iterdir())
SCHEMAS = {
    name: msgspec.json.decode(
        (files("flowstate.engines.tasks.documents") / "schemas" / name).read_bytes()
    )
    for name in ("workflow.json", "machine.json")
}


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.name)
async def test_a_right_document_is_taken(path: Path, tmp_path: Path) -> None:
    databases = {"shop": Database(f"sqlite:///{tmp_path}/shop")}
    made = await loaded(path.read_text(), processes=ALL, databases=databases)
    source = read(path.read_text()).value
    assert made.source == source
    assert made.key == "test/{name}:{version}".format(**source["document"])
    assert made.kind == source.get("kind", "workflow")
    if made.kind == "workflow":
        assert made.content == source
    lines = made.text.count("\n")
    assert all(0 < line <= lines for line in made.lines.values())


def test_they_have_every_field_of_the_schemas() -> None:
    seen: set[tuple[int, str]] = set()
    for path in RIGHT:
        note_fields(read(path.read_text()).value, seen)
    missing = {place for place, schema, name in fields() if (id(schema), name) not in seen}
    assert missing == set()


def test_a_field_that_no_document_has_would_be_missed() -> None:
    assert len(list(fields())) > 300
    seen: set[tuple[int, str]] = set()
    note_fields({"document": {"name": "b"}}, seen)
    assert len(seen) == len(("document", "name"))


def fields() -> Iterator[tuple[str, Any, str]]:
    """Iterate over all fields that the schemas describe."""
    todo: list[tuple[str, Any]] = list(SCHEMAS.items())
    for place, node in todo:
        if isinstance(node, dict):
            properties = node.get("properties", {})
            # Those of a task only tell its kind, and what a condition has is described elsewhere.
            last = place.rpartition("/")[2]
            described = [] if last in {"task", "if"} else list(properties)
            if last.endswith("Task") and last != "setTask":
                described = [each for each in described if each not in COMMON]
            yield from ((f"{place}/{name}", node, name) for name in described)
            todo += [(f"{place}/{key}", each) for key, each in node.items()]
        elif isinstance(node, list):
            todo += [(f"{place}/{index}", each) for index, each in enumerate(node)]


def note_fields(value: Any, seen: set[tuple[int, str]]) -> None:
    """Hold a value against the schema as an editor would, and note the fields that it has."""

    def properties(validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, dict):
            seen.update((id(schema), name) for name in given if name in instance)
        yield from Draft202012Validator.VALIDATORS["properties"](validator, given, instance, schema)

    registry: Registry[Any] = Registry()
    for name, schema in SCHEMAS.items():
        schema.pop("$schema", None)
        registry = registry.with_resource(name, DRAFT202012.create_resource(schema))
    extend: Any = jsonschema.validators.extend
    name = "machine.json" if value.get("kind") else "workflow.json"
    validator = extend(Draft202012Validator, {"properties": properties})(
        {"$ref": name}, registry=registry
    )
    list(validator.iter_errors(value))


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.name)
def test_an_editor_takes_them_too(path: Path) -> None:
    """The schema by itself, without our keywords, refuses none of them."""
    value = read(path.read_text()).value
    registry: Registry[Any] = Registry()
    for name, schema in SCHEMAS.items():
        registry = registry.with_resource(name, DRAFT202012.create_resource(schema))
    name = "machine.json" if value.get("kind") else "workflow.json"
    errors = Draft202012Validator({"$ref": name}, registry=registry).iter_errors(value)
    assert [each.message for each in errors] == []


def test_the_schemas_are_schemas() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


async def test_both_spellings_of_the_names_of_errors_are_taken() -> None:
    for base in ("open-workflow-specification.org", "serverlessworkflow.io"):
        text = f"""
document: {{dsl: 1.0.3, namespace: a, name: b, version: 1.0.0}}
do:
  - a: {{raise: {{error: {{type: "https://{base}/spec/1.0.0/errors/timeout", status: 408}}}}}}
"""
        assert (await loaded(text)).lines["/do/0/a/raise/error/type"] == 4


def test_tasks_may_be_nested_deeply() -> None:
    task: Any = {"set": {"a": "${ .a }"}}
    for _ in range(500):
        task = {"do": [{"a": task}]}
    head = {"dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0"}
    shape = shape_of({"document": head, "do": [{"a": task}]}, "workflow")
    assert shape.problems == []
    assert len(shape.tasks()) == 501
