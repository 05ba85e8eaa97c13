"""``call: rpc``: JSON-RPC 2.0 over HTTP."""

from collections.abc import Mapping
from typing import Any

from flowstate.engines.tasks.calls.exchange import endpoint_of
from flowstate.engines.tasks.calls.json_rpc import Server, request_of, result_of
from flowstate.engines.tasks.runtime import Call

__all__ = ["rpc"]


async def rpc(arguments: Mapping[str, Any], call: Call) -> Any:
    """Call a method: ``{endpoint, method, parameters, headers}``.

    The id of the request is the key of this call, the same whenever it is repeated.

    Raises:
        TaskError: ``runtime``: the server answers with an error, whose ``code`` and ``data`` it
            has; ``communication``, ``authorization``, ``timeout``.
    """
    url, policy = endpoint_of(arguments["endpoint"], call.written.get("endpoint"), call)
    server = Server(url, policy, arguments.get("headers", {}))
    request = request_of(arguments["method"], arguments.get("parameters"), call.key)
    (answer,), _ = await server.post(call, request)
    return result_of(answer)
