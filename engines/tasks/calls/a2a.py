"""``call: a2a``: agents that speak the A2A protocol, by JSON-RPC over HTTP."""

from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx

from flowstate.engines.tasks.calls.connecting import origin_of
from flowstate.engines.tasks.calls.exchange import endpoint_of
from flowstate.engines.tasks.calls.json_rpc import Server, request_of, result_of
from flowstate.engines.tasks.calls.resources import parsed, uri_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["a2a"]

SENDING = {"message/send", "message/stream"}
STREAMING = {"message/stream", "tasks/resubscribe"}


async def a2a(arguments: Mapping[str, Any], call: Call) -> Any:
    """Send a method to an agent: ``{method, agentCard | server, parameters}``.

    The id of a message is made from the key of this call, so an agent can tell a repeated one.

    Raises:
        TaskError: ``runtime``: the agent answers with an error; ``configuration``: its card names
            no place that takes JSON-RPC; ``communication``, ``authorization``, ``timeout``.
    """
    method, parameters = arguments["method"], arguments.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise TaskError.of("validation", "parameters are an object")
    if method in SENDING:
        message = {"kind": "message", "role": "user"} | {
            "messageId": str(uuid5(NAMESPACE_URL, call.key)),
            **parameters.get("message", {}),
        }
        parameters = {**parameters, "message": message}
    server = await _server(arguments, call)
    request = request_of(method, parameters, call.key)
    answers, _ = await server.post(call, request, to_the_end=method in STREAMING)
    results = [result_of(each) for each in answers]
    return results if method in STREAMING else results[0]


async def _server(arguments: Mapping[str, Any], call: Call) -> Server:
    if "agentCard" not in arguments:
        return Server(*endpoint_of(arguments["server"], call.written.get("server"), call))
    source = arguments["agentCard"]
    url = _url(await parsed(source, call))
    endpoint = source.get("endpoint") if isinstance(source, Mapping) else None
    policy = endpoint.get("authentication") if isinstance(endpoint, Mapping) else None
    # What proves who asks is for the host that the document names, not for one that a card names.
    own = httpx.URL(uri_of(source, call))
    return Server(url, policy if origin_of(httpx.URL(url)) == origin_of(own) else None)


def _url(card: Any) -> str:
    if isinstance(card, Mapping):
        places = [*card.get("supportedInterfaces", ()), *card.get("additionalInterfaces", ())]
        if "url" in card:
            transport = card.get("preferredTransport", "JSONRPC")
            places.insert(0, {"url": card["url"], "transport": transport})
        for place in places:
            if "JSONRPC" in {place.get("transport"), place.get("protocolBinding")}:
                return str(place["url"])
    raise TaskError.of("configuration", "the agent card names no place that takes JSON-RPC")
