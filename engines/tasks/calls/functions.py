"""Functions that a ``call`` names: built in, of the document, of a catalog, or in Python."""

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import attrs
import msgspec

from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.calls.exchange import endpoint_of
from flowstate.engines.tasks.calls.resources import parsed
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function, Runtime

__all__ = ["find", "is_known", "raw_uri", "typed"]

DEFAULT = "default"
CATALOGED = re.compile(r"([\w.-]+):([\w.+-]+)@([\w.-]+)")
URI = re.compile(r"(?:https?|file)://.+")
GITHUB = re.compile(r"https?://github\.com/([\w.-]+/[\w.-]+)(?:/(?:tree|blob)/([^/]+))?(/.*)?")
GITLAB = re.compile(r"(https?://gitlab\.[^/]+/.+?)(?:/-/(?:tree|blob)/([^/]+))(/.*)?")
FILES = (".yaml", ".yml", ".json")


def is_known(name: str, document: Document, runtime: Runtime) -> bool:
    """Return whether a document may call a name; nothing is asked over the network."""
    if name in BUILT_IN or name in runtime.functions or name in document.used("functions"):
        return True
    found = CATALOGED.fullmatch(name)
    if found is None:
        return URI.fullmatch(name) is not None
    catalog = found[3]
    is_here = catalog == DEFAULT and (_own(found, runtime) is not None or bool(runtime.catalog))
    return is_here or catalog in document.used("catalogs")


async def find(name: str, call: Call) -> Function | Mapping[str, Any]:
    """Return what a ``call`` names: a function, or the definition of a task.

    Args:
        name: of a built-in function, of one in ``use.functions``, of one of the runtime,
            ``name:version@catalog``, or a URI.
        call: whose document names it.

    Raises:
        TaskError: ``configuration``: there is none; and as of a resource.
    """
    runtime, own = call.runtime, call.document.used("functions")
    if name in BUILT_IN:
        return runtime.functions.get(name, BUILT_IN[name])
    if name in own:
        definition: Mapping[str, Any] = own[name]
        return definition
    if name in runtime.functions:
        return runtime.functions[name]
    if URI.fullmatch(name):
        return await _definition(_uri_of(name), None, name, call)
    found = CATALOGED.fullmatch(name)
    if found is None:
        raise TaskError.of("configuration", f"there is no function {name!r}")
    return await _cataloged(found, call)


async def _cataloged(name: re.Match[str], call: Call) -> Function | Mapping[str, Any]:
    catalogs = call.document.used("catalogs")
    if name[3] in catalogs:
        written, call = catalogs[name[3]]["endpoint"], attrs.evolve(call, task="")
        root, policy = endpoint_of(await call.evaluate(written), written, call)
    elif name[3] != DEFAULT:
        raise TaskError.of("configuration", f"there is no catalog {name[3]!r}")
    elif (own := _own(name, call.runtime)) is not None:
        return own
    elif call.runtime.catalog:
        root, policy = call.runtime.catalog, None
    else:
        raise TaskError.of("configuration", f"there is no function {name[0]!r}")
    uri = raw_uri(f"{root.rstrip('/')}/functions/{name[1]}/{name[2]}/function.yaml")
    return await _definition(uri, policy, name[0], call)


async def _definition(
    uri: str, policy: Mapping[str, Any] | None, name: str, call: Call
) -> Mapping[str, Any]:
    found = await parsed({"endpoint": {"uri": uri, "authentication": policy}}, call)
    if not isinstance(found, Mapping):
        raise TaskError.of("configuration", f"{name!r} is no definition of a task")
    return found


def raw_uri(uri: str) -> str:
    """Return where the content of a file is, if a URI is of a page of GitHub or GitLab."""
    if found := GITHUB.fullmatch(uri):
        ref = f"refs/heads/{found[2]}" if found[2] else "HEAD"
        repository = found[1].removesuffix(".git")
        return f"https://raw.githubusercontent.com/{repository}/{ref}{found[3] or ''}"
    if found := GITLAB.fullmatch(uri):
        return f"{found[1]}/-/raw/{found[2]}{found[3] or ''}"
    return uri


def _uri_of(name: str) -> str:
    """Return the URI of a function that is named by one, such as ``https://host/path@1.0.0``."""
    if name.endswith(FILES):
        return raw_uri(name)
    path, _, version = name.partition("@")
    if (found := GITHUB.fullmatch(path)) and version:
        root = f"https://raw.githubusercontent.com/{found[1]}/refs/tags/{version}{found[3] or ''}"
        return f"{root}/function.yaml"
    return raw_uri("/".join(filter(None, [path.rstrip("/"), version, "function.yaml"])))


def _own(name: re.Match[str], runtime: Runtime) -> Function | None:
    return runtime.functions.get(f"{name[1]}:{name[2]}", runtime.functions.get(name[1]))


def typed(function: Callable[..., Any]) -> Function:
    """Return a function that a ``call`` can name, from one in Python with typed parameters.

    The arguments under ``with`` are its parameters by name; they are decoded by their types, and
    its result becomes JSON. A parameter of the type ``Call`` gets what is known about the call,
    such as the key for its effects. A plain function runs in a worker thread.

    Raises:
        TypeError: it has parameters that have no name.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    if any(
        each.kind in {each.POSITIONAL_ONLY, each.VAR_POSITIONAL} for each in parameters.values()
    ):
        raise TypeError(f"{function!r} has parameters without a name")
    others = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    calls = {name for name in parameters if hints.get(name) is Call}

    async def called(arguments: Mapping[str, Any], call: Call) -> Any:
        given: dict[str, Any] = dict.fromkeys(calls, call)
        try:
            if unknown := not others and set(arguments) - set(parameters) | set(arguments) & calls:
                raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}")
            for name, value in arguments.items():
                given[name] = msgspec.convert(value, hints.get(name, Any))
            inspect.signature(function).bind(**given)
        except (TypeError, msgspec.ValidationError) as error:
            raise TaskError.of("validation", str(error)) from None
        if inspect.iscoroutinefunction(function):
            return msgspec.to_builtins(await function(**given))
        return msgspec.to_builtins(await asyncio.to_thread(function, **given))

    return called
