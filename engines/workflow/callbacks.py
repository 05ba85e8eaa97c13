"""Callbacks: URLs by which others answer one wait of one instance, signed, and good for a time."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha256
from inspect import isawaitable
from typing import Any

import attrs
import msgspec
from msgspec import Raw, Struct

from flowstate import Clock, FlowstateError, InvalidInputError, SystemClock
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.workflow.source_waits import is_set_up
from flowstate.engines.workflow.sources import Source, Subscription

__all__ = ["Callback", "CallbackRefusedError", "SignedUrls"]

SIGNATURE_BYTES = 32
SHORTEST_SECRET = 16


class CallbackRefusedError(FlowstateError):
    """The token of a callback is not ours, or its time has passed."""


class Address(Struct, frozen=True, array_like=True):
    """Which wait a callback is for, and until when; the signed form."""

    instance: str
    wait: str
    name: str
    token: str
    until: float


@attrs.frozen
class SignedUrls:
    """Makes URLs that no one else can make, and takes what comes to them.

    Attributes:
        base: what they begin with; the token follows it.
        secrets: the first one signs, all are good. Each has at least 16 bytes.
        lasts: how long they are good.
        clock: tells the time.
    """

    base: str
    secrets: Sequence[bytes] = attrs.field(repr=False)
    lasts: timedelta = timedelta(days=7)
    clock: Clock = attrs.field(factory=SystemClock, kw_only=True)

    @secrets.validator
    def _check(self, _: Any, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(each) < SHORTEST_SECRET for each in secrets):
            raise InvalidInputError("secrets", f"must have {SHORTEST_SECRET} bytes at least")

    def url(self, subscription: Subscription) -> str:
        """Return the URL for what a source is set up for; within ``setup``."""
        to, until = subscription, (self.clock.now() + self.lasts).timestamp()
        address = Address(to.instance, to.wait, to.name, to.token, until)
        text = msgspec.json.encode(address)
        signed = _signature(self.secrets[0], text) + text
        return self.base + urlsafe_b64encode(signed).decode().rstrip("=")

    def address(self, token: str) -> Address:
        """Return what the token of a URL says.

        Raises:
            CallbackRefusedError: it was not signed with one of the secrets, or is too old.
        """
        try:
            signed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            signed = b""
        signature, text = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(s, text)) for s in self.secrets):
            raise CallbackRefusedError("the token is not signed by us")
        address = msgspec.json.decode(text, type=Address)
        if address.until < self.clock.now().timestamp():
            raise CallbackRefusedError("the time of the token has passed")
        return address

    async def deliver(
        self,
        kernel: Kernel,
        token: str,
        body: bytes,
        *,
        timeout: float | None = 10.0,  # noqa: ASYNC109 - by the clock of the engine
    ) -> Any:
        """Give a message that came to a URL to the wait, and return the answer, as JSON has it.

        The same message again gets the same answer.

        Args:
            kernel: runs the instance, or another process does.
            token: what follows the base of the URL.
            body: the message, as JSON.
            timeout: seconds to wait for the answer.

        Raises:
            CallbackRefusedError: the token is not good, or not any more.
            LookupError: the instance does not wait for it any more.
            StateNotFoundError: the instance is forgotten.
            InvalidCommandError: it has ended.
            TimeoutError: there was no answer in time.
            Exception: the message is not of its type, or what the handler has raised; the instance
                still waits.
        """
        to = self.address(token)

        if not is_set_up(await kernel.engine.get_state(to.instance), to.wait):
            await kernel.engine.wait_for(
                to.instance, until=partial(is_set_up, wait=to.wait), timeout=timeout
            )
        key = sha256(to.token.encode() + body).hexdigest()
        name = f"{to.name}#{to.token}"
        return await kernel.update(to.instance, name, Raw(body), key=key, timeout=timeout)


def _signature(secret: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, text, "sha256")


@attrs.define(eq=False)
class Callback(Source):
    """A source of one message, which comes to a signed URL.

    Attributes:
        urls: makes the URL, and takes the message.
        handle: the handler, as of ``On``.
        tell: is given a copy of the data and the URL, and tells it to who is to call it. It has
            effects, and may be called again, then with a URL that is as good.
    """

    urls: SignedUrls
    handle: Callable[[Any, Any], Any]  # type: ignore[assignment] # called like a method
    tell: Callable[[Any, str], Any]

    async def setup(self, data: Any, subscription: Subscription) -> str:
        """Make the URL, and tell it."""
        url = self.urls.url(subscription)
        told = self.tell(data, url)
        if isawaitable(told):
            await told
        return url
