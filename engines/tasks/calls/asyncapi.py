"""``call: asyncapi``: publishes a message, or gathers those that a subscription gives."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from flowstate.engines.tasks.calls.asyncapi_documents import place_of
from flowstate.engines.tasks.calls.authentication import authorization
from flowstate.engines.tasks.calls.exchange import header_texts
from flowstate.engines.tasks.calls.messaging import CLIENTS, Way
from flowstate.engines.tasks.calls.resources import parsed
from flowstate.engines.tasks.durations import seconds_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["UNEVALUATED", "asyncapi"]

UNEVALUATED = frozenset(
    f"/subscription/{each}" for each in ("filter", "consume/until", "consume/while", "foreach")
)
"""JSON pointers within the arguments of what is evaluated for each message."""

MOST_MESSAGES = 10_000


async def asyncapi(arguments: Mapping[str, Any], call: Call) -> Any:
    """Publish ``message``, or return the messages that ``subscription`` gives.

    A message that was received is ``{payload, headers, correlationId}``. It is gathered in memory
    until the subscription has what it wants: what a crash interrupts is subscribed to again. With
    ``foreach``, it returns ``{"message": ...}``, the next one, or ``{}``: there are no more.

    Raises:
        TaskError: ``configuration``: the document names no such operation or server;
            ``communication``: the server fails, or ends the connection before there are as many
            messages as are wanted; ``authorization``: it may not be reached; ``timeout``.
    """
    place = place_of(await parsed(arguments["document"], call), arguments)
    policy = arguments.get("authentication")
    way = Way(place, call, await authorization(policy, call) if policy else None)
    if "message" not in arguments:
        subscription = arguments["subscription"]
        return await (_next if "foreach" in subscription else _gathered)(way, subscription)
    message = arguments["message"]
    payload = message.get("payload")
    content = payload.encode() if isinstance(payload, str) else msgspec.json.encode(payload)
    headers, seconds = header_texts(message.get("headers", {})), way.outgoing.timeout
    try:
        async with asyncio.timeout(seconds):
            await CLIENTS[place.protocol].publish(way, content, headers)
    except TimeoutError:
        raise TaskError.of("timeout", f"not published within {seconds:g} s") from None


async def _next(way: Way, subscription: Mapping[str, Any]) -> dict[str, Any]:
    call, consume, open_ = way.call, subscription["consume"], way.call.runtime.subscriptions
    taken, last = call.taken
    amount, seconds = consume.get("amount"), None
    if "for" in consume and call.since is not None:
        passed = call.runtime.engine.clock.now() - call.since
        seconds = max(0.0, seconds_of(consume["for"]) - passed.total_seconds())
    is_over = amount is not None and taken >= amount
    if is_over or (taken and not await _holds(consume, "while", last, call)):
        open_.end(call.key)
        return {}
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            while (came := await open_.next(call.key, way.subscribe)) is not None:
                payload, headers = came
                message = _message(payload, headers, way.place.correlation)
                if await _holds(subscription, "filter", message, call):
                    if "until" in consume and await _holds(consume, "until", message, call):
                        open_.end(call.key)
                        return {}
                    return {"message": message}
    except TimeoutError:
        if not limit.expired():
            raise
        return {}
    open_.end(call.key)
    _check_amount(taken, amount)
    return {}


async def _gathered(way: Way, subscription: Mapping[str, Any]) -> list[Any]:
    consume, amount = subscription["consume"], subscription["consume"].get("amount")
    found: list[Any] = []
    if amount is not None and amount <= 0:
        return found
    limit = asyncio.timeout(seconds_of(consume["for"]) if "for" in consume else None)
    size = 0
    try:
        async with limit, way.subscribe() as messages:
            async for payload, headers in messages:
                message, before = _message(payload, headers, way.place.correlation), len(found)
                if await _has_all(subscription, message, found, way.call):
                    return found
                size += len(payload) if len(found) > before else 0
                if len(found) > MOST_MESSAGES or size > way.outgoing.most_bytes:
                    raise TaskError.of("runtime", f"more than {before} messages")
    except TimeoutError:
        if not limit.expired():
            raise
        return found
    _check_amount(len(found), amount)
    return found


def _check_amount(taken: int, amount: int | None) -> None:
    if amount is not None:
        detail = f"the server has ended after {taken} of {amount} messages"
        raise TaskError.of("communication", detail)


async def _has_all(
    subscription: Mapping[str, Any], message: Any, found: list[Any], call: Call
) -> bool:
    consume = subscription["consume"]
    if not await _holds(subscription, "filter", message, call):
        return False
    if "until" in consume and await _holds(consume, "until", message, call):
        return True
    found.append(message)
    return len(found) == consume.get("amount") or not await _holds(consume, "while", message, call)


async def _holds(where: Mapping[str, Any], name: str, message: Any, call: Call) -> bool:
    return name not in where or await call.evaluate(where[name], message) is True


def _message(payload: bytes | str, headers: Mapping[str, str], correlation: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = payload if isinstance(payload, str) else payload.decode(errors="replace")
    message: dict[str, Any] = {"payload": value, "headers": dict(headers)}
    id: Any = message
    for part in correlation[1:].split("/"):
        id = id.get(part) if isinstance(id, Mapping) else None
    return message if id is None else {**message, "correlationId": id}
