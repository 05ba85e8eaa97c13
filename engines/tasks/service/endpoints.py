"""What the service offers over HTTP: each operation, with the types that it takes and gives."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from flowstate.engines.events.http import received
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.kernel.instance import WORKFLOW
from flowstate.engines.tasks.service.definitions import DEFINITION, Definition
from flowstate.engines.tasks.service.feed import Feed
from flowstate.engines.tasks.service.instances import (
    CODE,
    Details,
    Listing,
    Moments,
    Summary,
    Wanted,
)
from flowstate.engines.tasks.service.migrating import Migrated
from flowstate.engines.tasks.service.problems import RefusedError, answered
from flowstate.engines.tasks.service.tasks import Tasks
from flowstate.ground.frozen import EMPTY

__all__ = ["ENDPOINTS", "Endpoint"]

LONGEST = 60.0  # Seconds that a result is waited for.
OWN_ID = re.compile(r"[A-Za-z0-9._~@-]{1,200}")  # Such a one stands in a URL as it is.
YAML, PROMETHEUS = "application/yaml", "text/plain; version=0.0.4"


class Nothing(Struct):
    """No parameters."""


class Named(Struct):
    """Which document."""

    namespace: str
    name: str
    version: str


class One(Struct):
    """Which instance."""

    id: str


class Cancel(One):
    """Whether nothing of it cleans up."""

    hard: bool = False


class Await(One):
    """How many seconds to wait, at most 60."""

    timeout: float = 0.0


class Part(One):
    """Which part of its history."""

    after: int = 0
    limit: int = 100


class Filter(Wanted, frozen=True, kw_only=True):
    """Which instances; a label is ``key:value``."""

    label: Sequence[str] = ()


class Follow(Struct):
    """What to follow: a document, as ``namespace/name``, or an instance; since which revision."""

    definition: str = ""
    instance: str = ""
    since: int | None = None


class Start(Struct, forbid_unknown_fields=True):
    """What to start.

    Attributes:
        definition: ``namespace/name`` of the document.
        version: of it; empty: the newest.
        id: of the instance; empty: it gets one.
        input: JSON.
        labels: by which the instance is listed.
    """

    definition: str
    version: str = ""
    id: str = ""
    input: Any = None
    labels: Mapping[str, str] = EMPTY


class Migrate(Struct, forbid_unknown_fields=True):
    """To which version; with ``plan`` it is only told whether that can be done."""

    version: str
    plan: bool = False


class MigrateAll(Struct, forbid_unknown_fields=True):
    """Which instances: since which version, at which task; with ``plan`` it is only told."""

    since: str = ""
    task: str = ""
    plan: bool = False


class Stored(Struct):
    """A document that is stored."""

    key: str
    is_new: bool


class Accepted(Struct):
    """How many events there were, and how many of them were not known."""

    events: int
    published: int


@attrs.frozen
class Endpoint:
    """An operation over HTTP.

    Attributes:
        method: of the request.
        path: with its parameters.
        summary: for people.
        call: is given the client, the request, its parameters and its body.
        query: the type of its parameters in path and query.
        takes: the type of its body; a text is its media type.
        gives: the type of its answer; a text is its media type; ``None``: it is empty.
        status: of its answer.
        is_open: it needs no token.
    """

    method: str
    path: str
    summary: str
    call: Callable[[Tasks, Request, Any, Any], Awaitable[Any]]
    query: type[Struct] = Nothing
    takes: Any = None
    gives: Any = None
    status: int = 200
    is_open: bool = False


async def _health(tasks: Tasks, _: Request, __: Nothing, ___: None) -> Any:
    return {"status": "ok", "revision": await tasks.engine.head()}


async def _metrics(tasks: Tasks, _: Request, __: Nothing, ___: None) -> Response:
    return Response(await tasks.metrics.text(tasks.names()), media_type=PROMETHEUS)


async def _definitions(tasks: Tasks, _: Request, __: Nothing, ___: None) -> Any:
    return [*tasks.definitions]


async def _add(tasks: Tasks, _: Request, __: Nothing, body: bytes) -> Response:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"a document is UTF-8: {error}") from error
    document, is_new = await tasks.add(text)
    return answered(Stored(document.key, is_new), 201 if is_new else 200)


async def _text(tasks: Tasks, _: Request, query: Named, __: None) -> Response:
    text = await tasks.definitions.text(f"{query.namespace}/{query.name}:{query.version}")
    return Response(text, media_type=YAML)


async def _remove(tasks: Tasks, _: Request, query: Named, __: None) -> None:
    await tasks.remove(f"{query.namespace}/{query.name}", query.version)


async def _list(tasks: Tasks, request: Request, query: Filter, _: None) -> Response:
    labels = dict(each.partition(":")[::2] for each in query.label)
    page = await tasks.list(msgspec.structs.replace(query, labels=labels))
    return _page(request, page, page.next)


def _page(request: Request, page: Any, after: int) -> Response:
    url = request.url.include_query_params(after=after)
    return answered(page, headers={"Link": f'<{url}>; rel="next"'} if after else EMPTY)


async def _start(tasks: Tasks, request: Request, _: Nothing, body: Start) -> Response:
    if body.id and (not OWN_ID.fullmatch(body.id) or body.id.startswith("flowstate.")):
        raise RefusedError(400, f"id: must be of letters, digits and -._~@, not {body.id!r}")
    id = await tasks.start(
        body.definition,
        body.input,
        id=body.id,
        key=request.headers.get("Idempotency-Key", ""),
        version=body.version,
        labels=body.labels,
    )
    return answered(await tasks.summary(id), 201, {"Location": f"{request.url}/{id}"})


async def _get(tasks: Tasks, request: Request, query: One, _: None) -> Response:
    tag = f'"{(await tasks.summary(query.id)).rev}"'
    if request.headers.get("If-None-Match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    details = await tasks.get(query.id)
    return answered(details, headers={"ETag": f'"{details.rev}"'})


async def _history(tasks: Tasks, request: Request, query: Part, _: None) -> Response:
    page = await tasks.history(query.id, after=query.after, limit=query.limit)
    return _page(request, page, page.next)


async def _result(tasks: Tasks, _: Request, query: Await, __: None) -> Response:
    summary = await tasks.summary(query.id)
    try:
        return answered(await tasks.result(query.id, timeout=min(query.timeout, LONGEST)))
    except TimeoutError:
        return answered(summary, 202, {"Retry-After": "1"})
    except InstanceCancelledError as error:
        raise RefusedError(409, str(error)) from error


async def _act(act: Any, tasks: Tasks, _: Request, query: One, __: None) -> Summary:
    await act(tasks, **msgspec.structs.asdict(query))
    return await tasks.summary(query.id)


async def _migrate(tasks: Tasks, _: Request, query: One, body: Migrate) -> Summary:
    name = (await tasks.summary(query.id)).definition
    done = await tasks.migrate(name, body.version, id=query.id, plan=body.plan)
    for reason in done.misfits.values():
        raise RefusedError(409, reason)
    return await tasks.summary(query.id)


async def _migrate_all(tasks: Tasks, _: Request, query: Named, body: MigrateAll) -> Migrated:
    return await tasks.migrate(
        f"{query.namespace}/{query.name}",
        query.version,
        since=body.since,
        task=body.task,
        plan=body.plan,
    )


async def _publish(tasks: Tasks, request: Request, _: Nothing, body: bytes) -> Accepted:
    events = received(request.headers, body)
    return Accepted(len(events), sum([await tasks.publish(each) for each in events]))


async def _feed(tasks: Tasks, request: Request, query: Follow, _: None) -> Response:
    labels = {DEFINITION: query.definition} if query.definition else {WORKFLOW: CODE}
    last = request.headers.get("Last-Event-ID", "")
    since = int(last) if last.isdecimal() else query.since
    since = await tasks.engine.head() if since is None else since
    return Feed(tasks.engine, labels, since, query.instance, tasks.ending)


INSTANCE = "/instances/{id:path}"
DOCUMENT = "/definitions/{namespace}/{name}/{version}"

ENDPOINTS = (  # The first whose path fits counts.
    Endpoint("GET", "/health", "Whether the store answers", _health, is_open=True, gives=dict),
    Endpoint("GET", "/metrics", "Metrics for Prometheus", _metrics, gives="text/plain"),
    Endpoint("GET", "/definitions", "All documents", _definitions, gives=list[Definition]),
    Endpoint(
        "POST", "/definitions", "Store a document", _add, takes=YAML, gives=Stored, status=201
    ),
    Endpoint("GET", DOCUMENT, "The text of a document", _text, Named, gives=YAML),
    Endpoint("DELETE", DOCUMENT, "Let nothing more be started by it", _remove, Named, status=204),
    Endpoint(
        "POST",
        f"{DOCUMENT}/migrate",
        "Let live instances go on with it",
        _migrate_all,
        Named,
        MigrateAll,
        Migrated,
    ),
    Endpoint("GET", "/instances", "List instances", _list, Filter, gives=Listing),
    Endpoint("POST", "/instances", "Start one", _start, takes=Start, gives=Summary, status=201),
    Endpoint("GET", f"{INSTANCE}/history", "What has happened", _history, Part, gives=Moments),
    Endpoint("GET", f"{INSTANCE}/result", "Its output, once it has one", _result, Await, gives=Any),
    Endpoint(
        "POST",
        f"{INSTANCE}/cancel",
        "Cancel it",
        partial(_act, Tasks.cancel),
        Cancel,
        gives=Summary,
    ),
    Endpoint(
        "POST",
        f"{INSTANCE}/pause",
        "Let it begin no task",
        partial(_act, Tasks.pause),
        One,
        gives=Summary,
    ),
    Endpoint(
        "POST",
        f"{INSTANCE}/resume",
        "Let it go on",
        partial(_act, Tasks.resume),
        One,
        gives=Summary,
    ),
    Endpoint(
        "POST",
        f"{INSTANCE}/retry",
        "Try again what failed",
        partial(_act, Tasks.retry),
        One,
        gives=Summary,
    ),
    Endpoint(
        "POST", f"{INSTANCE}/migrate", "Change its version", _migrate, One, Migrate, gives=Summary
    ),
    Endpoint("GET", INSTANCE, "All about one", _get, One, gives=Details),
    Endpoint(
        "POST",
        "/events",
        "Publish CloudEvents",
        _publish,
        takes="application/cloudevents+json",
        gives=Accepted,
        status=202,
    ),
    Endpoint("GET", "/feed", "What happens, live", _feed, Follow, gives="text/event-stream"),
)
