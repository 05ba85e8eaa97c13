"""What is known at a place of a document: its task, the list that it is in, the variables."""

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from flowstate.engines.tasks.documents.keywords import Path
from flowstate.engines.tasks.documents.validating import kind_of

__all__ = ["bound_in", "siblings_of", "task_of", "used", "variables_at"]

ALWAYS = frozenset({"runtime"})
TASKS = ALWAYS | {"workflow", "context", "task"}
VARIABLES = {
    "enter": TASKS,
    "run": TASKS | {"input"},
    "poll": TASKS | {"input", "data"},
    "export": TASKS | {"input", "output"},
}
OF_WORKFLOW = {
    "input": ALWAYS | {"workflow"},
    "output": ALWAYS | {"workflow", "context"},
    "schedule": frozenset(),
}
CONDITIONS = ("if", "when", "exceptWhen", "while")
NONE: frozenset[str] = frozenset()
PRIVATE = frozenset({"secrets", "authorization"})
ARGUMENTS = frozenset({"http", "rpc", "db", "function"})  # Of instructions of a machine.


def used(content: Any, kind: str) -> AbstractSet[str]:
    """Return the names of a kind in ``use``; none if that is not as it should be."""
    used = content.get("use") if isinstance(content, dict) else None
    found = used.get(kind) if isinstance(used, dict) else None
    return frozenset(each for each in found or () if isinstance(each, str))


def task_of(path: Path, tasks: Mapping[Path, Any]) -> Path | None:
    """Return the path of the innermost task around a place."""
    return next((path[:end] for end in range(len(path), 0, -1) if path[:end] in tasks), None)


def siblings_of(task: Path, content: Any) -> Collection[str]:
    """Return the names of the tasks to which a task can go on: those of its list."""
    match task:
        case (*path, int(), str()) if path[-1:] != ["branches"]:
            for key in path:
                content = content[key]
            return {name for item in content if isinstance(item, dict) for name in item}
    return ()


def variables_at(
    content: Any, path: Path, group: str, tasks: Mapping[Path, Any], anywhere: frozenset[str]
) -> frozenset[str]:
    """Return the variables of an expression, without ``$``.

    Args:
        content: of the document.
        path: of the expression.
        group: what its keyword says of it.
        tasks: by path.
        anywhere: see :func:`bound_in`; what is in ``use`` can be used in any task.
    """
    known = OF_WORKFLOW.get(str(path[0]), VARIABLES[group])
    bound = anywhere if path[0] == "use" else frozenset(_bound(content, path))
    return known | bound | _private(path, tasks)


def bound_in(tasks: Mapping[Path, Any]) -> frozenset[str]:
    """Return the variables that tasks bind."""
    fields = ("do", "catch", "foreach")
    places = [(task, field) for task in tasks.values() for field in fields if field in task]
    return frozenset(name for task, field in places for name in _binds(task, field))


def _bound(content: Any, path: Path) -> Iterator[str]:
    node = content
    for key in path:
        if isinstance(node, dict):
            yield from _binds(node, key)
        node = node[key]


def _binds(node: Mapping[str, Any], field: str | int) -> Iterator[str]:
    """Iterate over the variables that are bound in a field of a node."""
    inner = node.get("for" if field in {"do", "while"} else str(field))
    if not isinstance(inner, dict):
        return
    if field in {"do", "while"}:
        yield from (str(inner.get("each", "item")), str(inner.get("at", "index")))
    elif field == "foreach":
        yield from (str(inner.get("item", "item")), str(inner.get("at", "index")))
    elif field == "catch":
        yield str(inner.get("as", "error"))


def _private(path: Path, tasks: Mapping[Path, Any]) -> AbstractSet[str]:
    """Return which variables with secrets are known: only where they are not stored."""
    if path[0] == "states":
        return NONE if ARGUMENTS.isdisjoint(path) else PRIVATE
    if path[:2] in {("use", "authentications"), ("use", "catalogs")}:
        return {"secrets"}
    task = task_of(path, tasks)
    if task is None:
        return NONE
    inner, kind = path[len(task) :], kind_of(tasks[task])
    if kind == "call" and inner[0] == "with":
        return PRIVATE
    is_argument = inner[0] == "run" or (inner[:2] == ("input", "from") and kind in {"call", "run"})
    return {"secrets"} if is_argument or path[-1] in CONDITIONS else NONE
