"""Writes docs/engines/tasks/reference.md, of the schemas of documents; run it when they change."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

PAGE = Path(__file__).parents[4] / "docs" / "engines" / "tasks" / "reference.md"
FOLDER = files("flowstate.engines.tasks.documents") / "schemas"
WORKFLOW, MACHINE = (
    msgspec.json.decode((FOLDER / name).read_bytes()) for name in ("workflow.json", "machine.json")
)
DEFS = {**WORKFLOW["$defs"], **{f"machine {key}": each for key, each in MACHINE["$defs"].items()}}
TYPES = {
    "object": "object",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
}
COMMON = ("if", "input", "output", "export", "timeout", "then", "metadata")
SET = WORKFLOW["$defs"]["setTask"]["properties"]
COMMON_FIELDS = {"properties": {each: SET[each] for each in COMMON}}
HEAD = """\
# Reference of documents

All fields of documents, made from the JSON Schemas by which documents are checked:
[workflow.json](../../../engines/tasks/documents/schemas/workflow.json) and
[machine.json](../../../engines/tasks/documents/schemas/machine.json). Editors use these files for
completion, too: with the YAML language server, the first line of a document is

```yaml
# yaml-language-server: $schema=PATH/OF/flowstate/engines/tasks/documents/schemas/workflow.json
```

The DSL is the Open Workflow DSL 1.0.3; a document can say any version `1.0.x`, pre-releases
included, and is read as 1.0.3. What is not on this page is refused when a document is loaded.
Machines are explained in [machines.md](machines.md).

In the column *type*, an **expression** is a text that is jq as a whole, with or without `${ }`
around it. A text, list, object or value marked by * can have expressions in it, each within
`${ }`; a text that is nothing but one expression becomes what that gives, of any type.
"""


def reference() -> str:
    """Return the page."""
    parts = [
        HEAD,
        section("Workflow", WORKFLOW),
        *(section(title(key), DEFS[key]) for key in order()),
    ]
    machine = [key for key in DEFS if key.startswith("machine ")]
    parts += [section("Machine", MACHINE), *(section(title(key), DEFS[key]) for key in machine)]
    return "\n".join(parts)


def order() -> Iterator[str]:
    tasks = [key for key in WORKFLOW["$defs"] if key.endswith("Task")]
    first = ["document", "use", "schedule", "evaluate", "taskList", "task"]
    arguments = [key for key in WORKFLOW["$defs"] if key.endswith("Arguments")]
    known = [*first, *tasks, *arguments]
    yield from known
    yield from (key for key in WORKFLOW["$defs"] if key not in known)


def title(key: str) -> str:
    name = key.rpartition(" ")[2]
    found = str(DEFS[key].get("title", name[0].upper() + name[1:]))
    if key.startswith("machine "):
        return f"{found} of a machine" if name in {"document", "use"} else found
    return f"{found} task" if key.endswith("Task") else found


def link(ref: str, *, is_machine: bool) -> str:
    file, _, path = ref.partition("#/$defs/")
    key = path.partition("/")[0]
    if "/" in path:  # Part of another one.
        return kind(part(DEFS[key], path.split("/")[1:]), is_machine=False)
    key = f"machine {key}" if is_machine and not file else key
    anchor = title(key).lower().replace(" ", "-")
    return f"[{title(key)}](#{anchor})"


def part(node: Any, keys: list[str]) -> Any:
    for key in keys:
        node = node[key]
    return node


def section(name: str, node: dict[str, Any]) -> str:
    is_machine = node is MACHINE or any(node is each for each in MACHINE["$defs"].values())
    lines = (
        [f"## {name}\n", f"{node['description']}\n"] if "description" in node else [f"## {name}\n"]
    )
    rows = list(fields(node, "", is_machine=is_machine))
    if not rows:
        lines += [f"It is: {kind(node, is_machine=is_machine)}.\n"]
    else:
        lines += ["| field | type | default | what |", "|---|---|---|---|", *rows, ""]
    if name == "Task":
        rows = list(fields(COMMON_FIELDS, "", is_machine=False))
        lines += ["Tasks of all kinds have these fields, too:\n"]
        lines += ["| field | type | default | what |", "|---|---|---|---|", *rows, ""]
    if (says := node.get("errorMessage")) and "write" in says:
        lines += [f"{says[0].upper()}{says[1:]}.\n"]
    return "\n".join(lines)


def fields(node: dict[str, Any], prefix: str, *, is_machine: bool) -> Iterator[str]:
    """Iterate over the rows of a table; fields of fields come after those that have them."""
    if "else" in node and "properties" in node["else"]:
        use = (
            {"use": node["then"]["properties"]["use"]}
            if "use" in node.get("properties", {})
            else {}
        )
        node = {**node["else"], "properties": {**use, **node["else"]["properties"]}}
    is_template = "x-template" in node and "x-duration" not in node
    for name, each in node.get("properties", {}).items():
        is_task = {"export", "then"} <= node["properties"].keys() and node is not COMMON_FIELDS
        if name in COMMON and is_task:
            continue
        default = each.get("default")
        shown = "" if default is None else f"`{msgspec.json.encode(default).decode()}`"
        needed = " **Required.**" if name in node.get("required", ()) else ""
        what = (described(each) + needed).replace("|", "\\|")
        is_kind = node is WORKFLOW["$defs"]["task"]
        of = (
            f"[{name.capitalize()} task](#{name}-task)"
            if is_kind
            else f"{kind(each, is_machine=is_machine)}{' *' if is_template else ''}"
        )
        yield f"| `{prefix}{name}` | {of} | {shown} | {what} |"
        inner = each
        if each.get("type") == "array":
            inner = each["items"]
        if isinstance(inner.get("additionalProperties"), dict):
            inner = inner["additionalProperties"]
        if "properties" in inner and not prefix.startswith(f"{name}."):
            yield from fields(inner, f"{prefix}{name}.", is_machine=is_machine)


def described(node: dict[str, Any]) -> str:
    while "description" not in node and "$ref" in node:
        file, _, path = node["$ref"].partition("#/$defs/")
        defs = MACHINE["$defs"] if not file and path in MACHINE["$defs"] else WORKFLOW["$defs"]
        node = part(defs, path.split("/"))
    return str(node.get("description", ""))


def kind(node: Any, *, is_machine: bool) -> str:
    """Return the type of a field."""
    match node:
        case {"x-schema": True}:
            found = "JSON Schema"
        case {"$ref": ref}:
            found = link(ref, is_machine=is_machine)
        case {"type": [*types], "then": then, "else": other}:
            other = {"type": next(each for each in types if each != "string"), **other}
            then = {"type": "string", **then}
            found = f"{kind(then, is_machine=is_machine)} or {kind(other, is_machine=is_machine)}"
        case {"type": [*types]}:
            found = " or ".join(TYPES[each] for each in types)
        case {"allOf": [first, *_]}:
            found = kind(first, is_machine=is_machine)
        case {"enum": [*values]} | {"const": str(values)}:
            values = [values] if isinstance(values, str) else values
            found = ", ".join(f"`{each}`" for each in values)
        case {"x-use": used}:
            found = f"name of one of `use.{used}`"
        case {"type": "array", "items": items}:
            found = f"list: {kind(items, is_machine=is_machine)}"
        case {"type": "object", "additionalProperties": dict(inner)}:
            found = f"by name: {kind(inner, is_machine=is_machine)}"
        case _:
            found = "expression" if "x-expression" in node else TYPES.get(node.get("type"), "any")
    return found + (" *" if "x-template" in node else "")


if __name__ == "__main__":
    PAGE.write_text(reference())
