"""Checks a document beyond its schema: what it refers to, and what can be run here."""

from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from flowstate.engines.tasks.calls.asyncapi_documents import PROTOCOLS
from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.calls.functions import is_known
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.keywords import Fault, Path, likely
from flowstate.engines.tasks.documents.places import siblings_of, task_of, used
from flowstate.engines.tasks.documents.validating import Shape, kind_of
from flowstate.engines.tasks.runtime import Runtime

__all__ = ["faults"]

USED = {("use",), ("use", "functions"), ("use", "catalogs")}  # Needed to look up functions.
DIRECTIVES = ("continue", "exit", "end")
PACKAGES = {
    "grpc": ("grpc", "flowstate-engine[grpc]"),
    "nats": ("nats", "flowstate-engine[asyncapi]"),
    "ws": ("websockets", "flowstate-engine[asyncapi]"),
    "redis": ("redis", "flowstate-engine[redis]"),
}
OF_KINDS = {"errors": "error", "retries": "retry", "timeouts": "timeout", "secrets": "secret"}
OF_KINDS |= {"authentications": "authentication"}


def faults(document: Document, shape: Shape, runtime: Runtime) -> Iterator[Fault]:
    """Iterate over what is wrong with the content of a document, expressions left out."""
    content, tasks = document.content, shape.tasks()
    wrong = shape.wrong()
    is_used = USED.isdisjoint(path for path, _ in shape.problems)
    siblings: dict[Path, Collection[str]] = {}
    names = {kind: used(content, kind) for kind in OF_KINDS}
    for each in shape.found:
        if each.keyword == "x-use":
            known = names[each.value]
            if each.instance not in known:
                yield each.path, _unknown(OF_KINDS[each.value], each.value, each.instance, known)
        elif each.keyword == "x-then" and each.instance not in DIRECTIVES:
            task = task_of(each.path, tasks) or ()
            if task[:-2] not in siblings:
                siblings[task[:-2]] = siblings_of(task, content)
            if each.instance not in siblings[task[:-2]]:
                yield each.path, _astray(each.instance, siblings[task[:-2]])
        elif each.keyword == "task" and is_used and each.path not in wrong:
            inner = _task_faults(each.instance, document, runtime)
            yield from ((each.path + path, text) for path, text in inner)


def _unknown(name: str, kind: str, instance: str, known: Any) -> str:
    return f"there is no {name} {instance!r} in use.{kind}{likely(instance, known)}"


def _astray(name: str, known: Collection[str]) -> str:
    ways = f"{name!r} is no task of the same list{likely(name, known)}"
    return f"{ways}; continue, exit and end are possible, too"


def _task_faults(task: Mapping[str, Any], document: Document, runtime: Runtime) -> Iterator[Fault]:
    match kind_of(task):
        case "call":
            yield from _call_faults(task, document, runtime)
        case "run":
            for kind in ("container", "script", "shell"):
                if kind in task["run"] and not getattr(runtime.processes, kind):
                    yield ("run", kind), f"running a {kind} is switched off here"


def _call_faults(task: Mapping[str, Any], document: Document, runtime: Runtime) -> Iterator[Fault]:
    name, given = task["call"], task.get("with", {})
    if not is_known(name, document, runtime):
        yield ("call",), _unknown_function(name, document.content, runtime)
    protocol = given.get("protocol") if name == "asyncapi" else name
    if name == "asyncapi" and protocol is not None and protocol not in PROTOCOLS:
        text = f"there is no client for {protocol}; there is {', '.join(sorted(PROTOCOLS))}"
        yield ("with", "protocol"), text
    module, package = PACKAGES.get(str(protocol), ("", ""))
    if module and find_spec(module) is None:
        yield ("call",), f"needs a package that is not installed: pip install {package!r}"
    if name == "mcp" and "stdio" in given["transport"] and not runtime.processes.mcp:
        yield ("with", "transport", "stdio"), "starting a server for MCP is switched off here"
    if name == "sql":
        yield from _sql_faults(given, runtime)


def _unknown_function(name: str, content: Mapping[str, Any], runtime: Runtime) -> str:
    function, _, catalog = name.rpartition("@")
    if function:
        return _unknown("catalog", "catalogs", catalog, used(content, "catalogs"))
    known = {*BUILT_IN, *runtime.functions, *used(content, "functions")}
    return f"there is no function {name!r}{likely(name, known)}"


def _sql_faults(given: Mapping[str, Any], runtime: Runtime) -> Iterator[Fault]:
    database, query = given.get("database"), given.get("query")
    if database not in runtime.databases:
        text = f"there is no database {database!r} here{likely(str(database), runtime.databases)}"
        yield ("with", "database"), text
    if not isinstance(query, str) or "${" in query:
        yield ("with", "query"), "must be a text without expressions; data comes in by parameters"
