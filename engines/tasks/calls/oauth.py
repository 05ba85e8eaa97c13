"""Access tokens of OAuth 2 and OpenID Connect; they are kept in memory until they expire."""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode
from uuid import NAMESPACE_URL, uuid5

import attrs
import msgspec

from flowstate.engines.tasks.calls.outgoing import outgoing_of
from flowstate.engines.tasks.calls.uri_templates import expanded
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["token"]

WELL_KNOWN = "/.well-known/"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EARLY = 0.1  # Of its life: so much before it expires, a token is replaced.
UNKNOWN_LIFE = 60.0  # Seconds, of a token that does not tell.
DISCOVERY = 3_600.0  # Seconds.
JWT_LIFE = 60  # Seconds.
ERROR = re.compile(r"[a-z_]{1,40}")


@attrs.frozen
class _Token:
    scheme: str
    access: str = attrs.field(repr=False)
    refresh: str | None = attrs.field(repr=False)


async def token(
    kind: str, fields: Mapping[str, Any], call: Call, refused: str | None = None
) -> tuple[str, str]:
    """Return the type of an access token, and the token.

    Args:
        kind: ``oauth2`` or ``oidc``.
        fields: of the policy.
        call: for which it is.
        refused: a token that was not accepted.

    Raises:
        TaskError: ``authentication``: none was granted.
    """
    tokens, clock = outgoing_of(call).tokens, call.runtime.engine.clock
    url = await _token_endpoint(kind, fields, call)
    key = hashlib.sha256(msgspec.json.encode([url, fields], order="sorted")).hexdigest()

    async def make(old: _Token | None) -> tuple[_Token, float]:
        return await _granted(url, fields, call, old)

    found = await tokens.get(key, clock.monotonic, make)
    if found.access == refused:
        tokens.expire(key, found)
        found = await tokens.get(key, clock.monotonic, make)
    return found.scheme, found.access


async def _granted(
    url: str, fields: Mapping[str, Any], call: Call, old: _Token | None
) -> tuple[_Token, float]:
    if old is not None and old.refresh:
        try:
            form = {"grant_type": "refresh_token", "refresh_token": old.refresh}
            return await _requested(url, form, fields, call, old.refresh)
        except TaskError:
            pass  # It has expired, too: ask as at first.
    return await _requested(url, _grant(fields), fields, call, None)


def _grant(fields: Mapping[str, Any]) -> dict[str, Any]:
    grant = fields.get("grant")
    form: dict[str, Any] = {"grant_type": grant}
    if grant == "password":
        form |= {each: str(_needed(fields, each)) for each in ("username", "password")}
    elif grant == "refresh_token":
        form["refresh_token"] = _needed(_needed(fields, "subject"), "token")
    elif grant == "authorization_code":
        form["code"] = _needed(_needed(fields, "subject"), "token")
    elif grant == EXCHANGE:
        for role in ("subject", "actor"):
            if role == "subject" or fields.get(role):
                given = _needed(fields, role)
                form[f"{role}_token"] = _needed(given, "token")
                form[f"{role}_token_type"] = _needed(given, "type")
    elif grant != "client_credentials":
        raise TaskError.of("configuration", f"there is no grant {grant!r}")
    return form


async def _requested(
    url: str, form: dict[str, Any], fields: Mapping[str, Any], call: Call, refresh: str | None
) -> tuple[_Token, float]:
    if fields.get("scopes"):
        form["scope"] = " ".join(fields["scopes"])
    if fields.get("audiences") and "refresh_token" not in form:
        form["audience"] = fields["audiences"]
    headers = {"accept": "application/json"}
    _add_client(fields.get("client") or EMPTY, url, form, headers, call)
    encoding = (fields.get("request") or EMPTY).get("encoding", "application/x-www-form-urlencoded")
    headers["content-type"] = encoding
    is_json = encoding == "application/json"
    content = msgspec.json.encode(form) if is_json else urlencode(form, doseq=True).encode()
    answer = await outgoing_of(call).request("POST", url, headers=headers, content=content)
    given = _object(answer.content)
    access = given.get("access_token")
    if answer.status >= 300 or not isinstance(access, str):  # noqa: PLR2004 - of HTTP
        raise _not_granted(answer.status, given)
    _check_issuer(access, fields.get("issuers"))
    scheme = str(given.get("token_type") or "Bearer")
    newest = given.get("refresh_token") or refresh
    return _Token("Bearer" if scheme.lower() == "bearer" else scheme, access, newest), _life(given)


def _add_client(
    client: Mapping[str, Any],
    url: str,
    form: dict[str, Any],
    headers: dict[str, str],
    call: Call,
) -> None:
    method = client.get("authentication", "client_secret_post")
    if method == "client_secret_basic":
        pair = ":".join(quote(str(_needed(client, each)), safe="") for each in ("id", "secret"))
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return
    if client.get("id") is not None:
        form["client_id"] = str(client["id"])
    if method in {"client_secret_jwt", "private_key_jwt"}:
        is_own = method == "client_secret_jwt" and not client.get("assertion")
        assertion = _signed(client, url, call) if is_own else _needed(client, "assertion")
        form |= {"client_assertion": assertion, "client_assertion_type": ASSERTION}
    elif method == "client_secret_post" and client.get("secret") is not None:
        form["client_secret"] = str(client["secret"])


def _signed(client: Mapping[str, Any], url: str, call: Call) -> str:
    """Return a JWT that is signed with the secret of the client."""
    now = call.runtime.engine.clock.now()
    seconds = int(now.timestamp())
    claims = {"iss": client.get("id"), "sub": client.get("id"), "aud": url}
    claims |= {"iat": seconds, "exp": seconds + JWT_LIFE}
    claims["jti"] = str(uuid5(NAMESPACE_URL, f"{call.key} {now.isoformat()}"))
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    signed = b".".join(_base64(msgspec.json.encode(each)) for each in parts)
    secret = str(_needed(client, "secret")).encode()
    return (signed + b"." + _base64(hmac.digest(secret, signed, "sha256"))).decode()


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


async def _token_endpoint(kind: str, fields: Mapping[str, Any], call: Call) -> str:
    authority = expanded(str(_needed(fields, "authority")), call.input).rstrip("/")
    if kind == "oauth2" and WELL_KNOWN not in authority:
        path = (fields.get("endpoints") or EMPTY).get("token", "/oauth2/token")
        return f"{authority}/{expanded(path, call.input).lstrip('/')}"
    if WELL_KNOWN not in authority:
        authority += f"{WELL_KNOWN}openid-configuration"

    async def make(_: Any) -> tuple[str, float]:
        answer = await outgoing_of(call).request("GET", authority, follow=True)
        found = _object(answer.content).get("token_endpoint")
        if answer.status != 200 or not isinstance(found, str):  # noqa: PLR2004 - of HTTP
            raise TaskError.of("authentication", "the authority does not describe itself")
        return found, DISCOVERY

    found: str = await outgoing_of(call).tokens.get(
        authority, call.runtime.engine.clock.monotonic, make
    )
    return found


def _check_issuer(access: str, issuers: Any) -> None:
    if not issuers:
        return
    payload = [*access.split("."), "", ""][1]
    try:
        claims = _object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        claims = {}
    if claims.get("iss") not in issuers:
        raise TaskError.of("authentication", "the token is from none of the issuers")


def _life(given: Mapping[str, Any]) -> float:
    try:
        return max(0.0, float(given["expires_in"]) * (1 - EARLY))
    except (KeyError, TypeError, ValueError):
        return UNKNOWN_LIFE


def _not_granted(status: int, given: Mapping[str, Any]) -> TaskError:
    why = given.get("error")
    known = f" ({why})" if isinstance(why, str) and ERROR.fullmatch(why) else ""
    return TaskError.of("authentication", f"no token was granted: status {status}{known}")


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _needed(fields: Any, name: str) -> Any:
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if value is None:
        raise TaskError.of("configuration", f"the authentication needs {name!r}")
    return value
