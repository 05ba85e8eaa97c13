"""Calls of services that are described by OpenAPI 3 or Swagger 2."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urljoin

import attrs
import msgspec

from flowstate.engines.tasks.calls.exchange import Request, exchanged, form_value, header_texts
from flowstate.engines.tasks.calls.http import with_query
from flowstate.engines.tasks.calls.resources import parsed, uri_of
from flowstate.engines.tasks.calls.uri_templates import as_text, encoded
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.pointers import resolved
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["openapi"]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SEPARATORS = {"ssv": " ", "tsv": "\t", "pipes": "|", "spaceDelimited": " ", "pipeDelimited": "|"}
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@attrs.frozen
class _Operation:
    document: Mapping[str, Any]
    path: str
    method: str
    fields: Mapping[str, Any]
    parameters: list[Mapping[str, Any]]
    servers: list[Mapping[str, Any]]


async def openapi(arguments: Mapping[str, Any], call: Call) -> Any:
    """Call an operation, and return the content of the answer, or what ``output`` says.

    ``parameters`` are given by name, wherever the description places them. What is none of its
    parameters is the body: what is named ``body``, or else all the others, as an object.

    Raises:
        TaskError: ``configuration``: the description has no such operation; ``validation``: a
            parameter is missing or unknown; and as of a call of HTTP.
    """
    source = arguments["document"]
    document = await parsed(source, call)
    try:
        request = _request(document, uri_of(source, call), arguments)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        detail = f"the document is not as OpenAPI has it: {error!s:.200}"
        raise TaskError.of("configuration", detail) from None
    return await exchanged(request, call)


def _request(document: Any, uri: str, arguments: Mapping[str, Any]) -> Request:
    operation = _operation(document, arguments.get("operationId"))
    given = arguments.get("parameters") or {}
    if not isinstance(given, Mapping):
        raise TaskError.of("validation", "the parameters are an object")
    root = _server(operation, uri).rstrip("/")
    sent = _Sent(operation.path)
    for parameter in operation.parameters:
        _place(sent, parameter, given)
    _add_body(sent, operation, {name: given[name] for name in given if name not in sent.taken})
    return Request(
        operation.method,
        with_query(root + sent.path, sent.query),
        header_texts(sent.headers),
        sent.body,
        arguments.get("authentication"),
        arguments.get("output", "content"),
        bool(arguments.get("redirect", False)),
    )


@attrs.define
class _Sent:
    """What of the parameters is sent where."""

    path: str
    query: list[tuple[str, Any]] = attrs.field(factory=list)
    headers: dict[str, Any] = attrs.field(factory=dict)
    body: Any = None
    form: dict[str, Any] = attrs.field(factory=dict)
    taken: set[str] = attrs.field(factory=set)


def _operation(document: Any, operation_id: Any) -> _Operation:
    if not isinstance(document, Mapping) or not {"openapi", "swagger"} & set(document):
        raise TaskError.of("configuration", "the document is none of OpenAPI")
    for path, item in (document.get("paths") or EMPTY).items():
        item_ = resolved(document, item)
        for method in METHODS:
            fields = item_.get(method)
            if isinstance(fields, Mapping) and fields.get("operationId") == operation_id:
                places = (fields, item_, document)
                servers: list[Any] = next(
                    filter(None, (each.get("servers") for each in places)), []
                )
                parameters = _parameters(document, item_, fields)
                return _Operation(document, path, method, fields, parameters, servers)
    raise TaskError.of("configuration", f"the document has no operation {operation_id!r}")


def _parameters(
    document: Mapping[str, Any], item: Mapping[str, Any], fields: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    found = {}
    for each in (*(item.get("parameters") or ()), *(fields.get("parameters") or ())):
        parameter = resolved(document, each)
        found[parameter.get("name"), parameter.get("in")] = parameter
    return [*found.values()]


def _place(sent: _Sent, parameter: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    name, place = parameter["name"], parameter["in"]
    sent.taken.add(name)
    value = given.get(name)
    if value is None:
        if parameter.get("required") or place == "path":
            raise TaskError.of("validation", f"the parameter {name!r} is missing")
    elif place == "path":
        text = _joined(value, ",", parameter, partial(encoded, name))
        sent.path = sent.path.replace(f"{{{name}}}", text)
    elif place == "query":
        sent.query += _in_query(name, value, parameter)
    elif place == "header":
        sent.headers[name] = _joined(value, ",", parameter)
    elif place == "cookie":
        crumb = f"{quote(name)}={quote(_joined(value, ',', parameter))}"
        sent.headers["Cookie"] = "; ".join(filter(None, [sent.headers.get("Cookie"), crumb]))
    elif place == "formData":
        sent.form[name] = value
    else:
        sent.body = value


def _in_query(name: str, value: Any, parameter: Mapping[str, Any]) -> list[tuple[str, Any]]:
    style = parameter.get("style") or parameter.get("collectionFormat", "form")
    explodes = parameter.get("explode", style in {"form", "multi"} and "schema" in parameter)
    if "content" in parameter:
        return [(name, msgspec.json.encode(value).decode())]
    if isinstance(value, Mapping):
        if style == "deepObject":
            return [(f"{name}[{key}]", form_value(each)) for key, each in value.items()]
        return [*value.items()] if explodes else [(name, _joined(value, ",", parameter))]
    if isinstance(value, list) and (explodes or style == "multi"):
        return [(name, form_value(each)) for each in value]
    return [(name, _joined(value, SEPARATORS.get(style, ","), parameter))]


def _joined(
    value: Any,
    separator: str,
    parameter: Mapping[str, Any],
    text: Callable[[Any], str] = as_text,
) -> str:
    if isinstance(value, list):
        return separator.join(map(text, value))
    if isinstance(value, Mapping):
        between = "=" if parameter.get("explode") else ","
        return ",".join(f"{text(key)}{between}{text(each)}" for key, each in value.items())
    return text(value)


def _add_body(sent: _Sent, operation: _Operation, rest: Mapping[str, Any]) -> None:
    described = operation.fields.get("requestBody")
    if sent.form:
        sent.body, kinds = sent.form, (operation.fields.get("consumes") or FORMS)
        sent.headers["content-type"] = FORMS[0]
        if FORMS[0] not in kinds and FORMS[1] in kinds:
            raise TaskError.of("configuration", "multipart/form-data is not supported")
    if described is None and rest:
        raise TaskError.of("validation", f"the operation has no parameter {next(iter(rest))!r}")
    if described is None:
        return
    body = resolved(operation.document, described)
    kinds = [*(body.get("content") or EMPTY)]
    if "body" in rest:
        sent.body = rest["body"]
    elif rest:
        sent.body = dict(rest)
    elif body.get("required"):
        raise TaskError.of("validation", "the body is missing")
    is_json = any("json" in each for each in kinds)
    if sent.body is not None and kinds and not is_json and "*" not in kinds[0]:
        sent.headers["content-type"] = kinds[0]


def _server(operation: _Operation, uri: str) -> str:
    document = operation.document
    if "swagger" in document:
        own = urljoin(uri, "/")
        scheme = next(iter(document.get("schemes") or ()), own.partition(":")[0])
        host = document.get("host") or own.partition("://")[2].rstrip("/")
        return f"{scheme}://{host}{document.get('basePath') or ''}"
    server = operation.servers[0] if operation.servers else {}
    url = str(server.get("url", "/"))
    for name, variable in (server.get("variables") or EMPTY).items():
        url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    return urljoin(uri, url)
