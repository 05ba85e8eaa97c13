"""``call: rpc``: JSON-RPC 2.0 over HTTP, answered by one message or by a stream of events."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import attrs
import httpx
import msgspec

from flowstate.engines.tasks.calls.event_streams import EVENT_STREAM, events
from flowstate.engines.tasks.calls.exchange import endpoint_of, header_texts, opened
from flowstate.engines.tasks.calls.outgoing import Options
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["Server", "decoded", "request_of", "result_of", "rpc"]


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


@attrs.frozen
class Server:
    """A server of JSON-RPC.

    Attributes:
        url: to which messages are posted.
        policy: of authentication.
        headers: of each request.
        timeout: seconds of each request; ``None``: as usual.
    """

    url: str
    policy: Mapping[str, Any] | None = None
    headers: Mapping[str, Any] = EMPTY
    timeout: float | None = None

    async def post(
        self, call: Call, message: Mapping[str, Any], *, to_the_end: bool = False
    ) -> tuple[list[Any], Mapping[str, str]]:
        """Post a message; return what answers it, and the headers of the answer.

        Of a stream of events it returns the message with the same id, and reads no further; or,
        if ``to_the_end``, all messages. What is no request is answered by nothing.

        Raises:
            TaskError: ``communication``: the answer is an error of HTTP, or no JSON-RPC.
        """
        gathered: list[Any] = []
        async with self._asked(call, "POST", msgspec.json.encode(message)) as (response, _):
            if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                detail = f"the server has answered with {response.status_code}"
                raise TaskError.of("communication", detail, status=response.status_code)
            if response.headers.get("content-type", "").startswith(EVENT_STREAM):
                async for data in events(response):
                    gathered.append(decoded(data))
                    if not to_the_end and _answers(gathered[-1], message):
                        break
            elif "id" in message and (content := await response.aread()):
                gathered.append(decoded(content))
        if to_the_end or "id" not in message:
            return gathered, response.headers
        found = [each for each in gathered if _answers(each, message)]
        if not found:
            raise TaskError.of("communication", "the server has not answered the request")
        return found, response.headers

    async def end(self, call: Call) -> None:
        """Tell the server that no more comes in this session."""
        async with self._asked(call, "DELETE", b""):
            pass

    def _asked(
        self, call: Call, method: str, content: bytes
    ) -> AbstractAsyncContextManager[tuple[httpx.Response, Any]]:
        headers = {"accept": f"application/json, {EVENT_STREAM}", **header_texts(self.headers)}
        headers["content-type"] = "application/json"
        options = Options(headers=headers, content=content, timeout=self.timeout)
        return opened(call, method, self.url, self.policy, **options)


def request_of(method: str, parameters: Any, id: str) -> dict[str, Any]:
    """Return a request; the parameters may be left out."""
    named = {} if parameters is None else {"params": parameters}
    return {"jsonrpc": "2.0", "id": id, "method": method, **named}


def result_of(message: Any) -> Any:
    """Return the result that a message has.

    Raises:
        TaskError: ``runtime``: it is an error; ``extra`` has its ``code`` and ``data``.
    """
    error = message.get("error")
    if error is None:
        return message.get("result")
    fields = error if isinstance(error, Mapping) else {"message": error}
    raised = TaskError.of("runtime", str(fields.get("message", ""))[:500])
    raised.extra.update({key: fields[key] for key in ("code", "data") if key in fields})
    raise raised


def decoded(content: bytes) -> Any:
    """Return the message that a text of JSON is.

    Raises:
        TaskError: ``communication``: it is none.
    """
    try:
        message = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise TaskError.of("communication", "the server has answered with what is no JSON-RPC")
    return message


def _answers(message: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    is_answer = "method" not in message and ("result" in message or "error" in message)
    return is_answer and message.get("id") in {request.get("id"), None}
