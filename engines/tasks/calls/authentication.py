"""What proves who calls: the policies of a document, and what they come to in a request."""

import base64
from collections.abc import Generator, Mapping
from typing import Any

import attrs
import httpx

from flowstate.engines.tasks.calls.oauth import token
from flowstate.engines.tasks.calls.secrets import check_own, secret
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["Authorization", "authorization", "inlined", "policy_of"]

KINDS = ("basic", "bearer", "digest", "oauth2", "oidc")


@attrs.frozen
class Authorization:
    """What a policy comes to. It is never stored.

    Attributes:
        scheme: of HTTP, such as ``Bearer``.
        parameter: what follows the scheme in the header; empty if only an answer can tell.
        username: of ``basic`` and ``digest``.
        password: of ``basic`` and ``digest``.
        is_granted: it is a token that was asked for, and can be asked for again.
    """

    scheme: str
    parameter: str = attrs.field(default="", repr=False)
    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)
    is_granted: bool = False

    @property
    def header(self) -> str:
        """The value of the header ``Authorization``; ``digest`` has none before it was asked."""
        if not self.parameter:
            raise TaskError.of("configuration", "digest is for HTTP only")
        return f"{self.scheme} {self.parameter}"

    @property
    def described(self) -> dict[str, str]:
        """The value of ``$authorization``."""
        return {"scheme": self.scheme, "parameter": self.parameter}

    @property
    def auth(self) -> httpx.Auth:
        """What adds it to requests."""
        if self.scheme == "Digest":
            return _Digest(self.username, self.password)
        return _Header(self.header)


class _Header(httpx.Auth):
    def __init__(self, value: str) -> None:
        self._value = value

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = self._value
        yield request


class _Digest(httpx.DigestAuth):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        try:
            yield from super().auth_flow(request)
        except (LookupError, NotImplementedError, ValueError, httpx.ProtocolError):
            raise TaskError.of("authentication", "the challenge is not understood") from None


def policy_of(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the policy of a call, from its arguments; ``None``: it has none."""
    transport = (arguments.get("transport") or EMPTY).get("http") or EMPTY
    places = [arguments, transport]
    places += [arguments.get(each) for each in ("endpoint", "service", "server")]
    places.append(transport.get("endpoint"))
    found = [each.get("authentication") for each in places if isinstance(each, Mapping)]
    return next((each for each in found if each), None)


async def authorization(
    policy: Mapping[str, Any], call: Call, *, renewed: Authorization | None = None
) -> Authorization:
    """Return what a policy comes to: inline, or the name of one in ``use``.

    Args:
        policy: whose expressions are evaluated.
        call: for which it is.
        renewed: one that was refused, so another token is asked for.

    Raises:
        TaskError: ``authorization``: its secret does not exist. ``authentication``: no token was
            granted. ``configuration``: it is none.
    """
    policy = await inlined(policy, call)
    kind = next((each for each in KINDS if isinstance(policy, Mapping) and each in policy), None)
    if kind is None:
        raise TaskError.of("configuration", f"authentication is one of {', '.join(KINDS)}")
    fields = policy[kind]
    if isinstance(fields, Mapping) and "use" in fields:
        check_own(call.task)
        fields = await secret(fields["use"], call.document, call.runtime)
    if kind == "bearer":
        return Authorization("Bearer", _checked(_text(fields, "token")))
    if kind in {"basic", "digest"}:
        user, password = _text(fields, "username"), _text(fields, "password")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        return Authorization(kind.capitalize(), pair if kind == "basic" else "", user, password)
    if not isinstance(fields, Mapping):
        raise TaskError.of("configuration", f"{kind} needs an authority and a grant")
    scheme, parameter = await token(
        kind, fields, call, refused=renewed.parameter if renewed else None
    )
    return Authorization(scheme, _checked(parameter), is_granted=True)


async def inlined(policy: Mapping[str, Any], call: Call) -> Mapping[str, Any]:
    """Return a policy; of the name of one in ``use``, what is there, evaluated.

    Raises:
        TaskError: ``configuration``: there is none; ``authorization``: it is not for this task.
    """
    if not (isinstance(policy, Mapping) and "use" in policy):
        return policy
    check_own(call.task)
    name, policies = policy["use"], call.document.used("authentications")
    if name not in policies:
        raise TaskError.of("configuration", f"there is no authentication {name!r} in use")
    found: Mapping[str, Any] = await call.evaluate(policies[name])
    return found


def _text(fields: Any, name: str) -> str:
    value = fields.get(name) if isinstance(fields, Mapping) else fields if name == "token" else None
    if value is None or isinstance(value, Mapping | list):
        raise TaskError.of("configuration", f"authentication needs a {name}")
    return str(value)


def _checked(parameter: str) -> str:
    if not parameter or not parameter.isascii() or not parameter.isprintable():
        raise TaskError.of("authentication", "the token has characters that no token has")
    return parameter
