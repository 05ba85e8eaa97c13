"""What proves who calls, against servers that ask for it."""

import base64
import contextlib
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import attrs
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate import FakeClock
from flowstate.engines.tasks.calls.authentication import authorization, policy_of
from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.calls.json_rpc import rpc
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import served

http = BUILT_IN["http"]
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@attrs.define
class Authority:
    """Grants tokens, and has an API that wants one of those."""

    forms: list[dict[str, Any]] = attrs.field(factory=list)
    headers: list[Mapping[str, str]] = attrs.field(factory=list)
    paths: list[str] = attrs.field(factory=list)
    given: dict[str, Any] = attrs.field(factory=dict)
    status: int = 200
    origin: str = ""
    good: str = ""
    discoveries: int = 0
    refuses: bool = False

    async def grant(self, request: Request) -> Response:
        body = await request.body()
        is_json = request.headers["content-type"] == "application/json"
        self.forms.append(msgspec.json.decode(body) if is_json else parse_qs(body.decode()))
        self.headers.append(request.headers)
        self.paths.append(request.url.path)
        self.good = self.given.get("access_token", f"token-{len(self.forms)}")
        made = {"access_token": self.good, "token_type": "Bearer", "expires_in": 100}
        return JSONResponse({**made, **self.given}, self.status)

    async def discover(self, request: Request) -> Response:  # noqa: ARG002 - as of a route
        self.discoveries += 1
        return JSONResponse({"token_endpoint": f"{self.origin}/elsewhere/token"})

    async def api(self, request: Request) -> Response:
        is_good = request.headers.get("authorization") == f"Bearer {self.good}"
        return JSONResponse(
            {"forms": len(self.forms)}, 200 if is_good and not self.refuses else 401
        )

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api", self.api, methods=["GET", "POST"]),
                Route("/{realm}/.well-known/openid-configuration", self.discover),
                Route("/{path:path}", self.grant, methods=["POST"]),
            ]
        )


@contextlib.asynccontextmanager
async def open_authority(**options: Any) -> AsyncIterator[tuple[Authority, Caller]]:
    authority = Authority()
    async with served(authority.app()) as authority.origin, caller(**options) as task:
        yield authority, task


def client(**fields: Any) -> dict[str, Any]:
    return {"id": "me", "secret": "my/secret", **fields}


async def asked(fields: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the form by which a token is asked for."""
    async with open_authority() as (authority, task):
        policy = {"oauth2": {"authority": authority.origin, "client": client(), **fields}}
        found = await authorization(policy, attrs.evolve(task.call, **more))
        assert found.header == "Bearer token-1"
        return {
            name: each[0] if len(each) == 1 else each for name, each in authority.forms[0].items()
        }


async def test_basic_and_bearer_are_headers() -> None:
    async with caller() as task:
        basic = await authorization({"basic": {"username": "ann", "password": 1234}}, task.call)
        bearer = await authorization({"bearer": {"token": "t"}}, task.call)
        short = await authorization({"bearer": "t"}, task.call)
    assert basic.header == f"Basic {base64.b64encode(b'ann:1234').decode()}"
    assert (basic.username, basic.password) == ("ann", "1234")
    assert bearer.header == short.header == "Bearer t"
    assert bearer.described == {"scheme": "Bearer", "parameter": "t"}


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ({}, "configuration"),
        ({"other": {}}, "configuration"),
        ({"basic": {"username": "x"}}, "configuration"),
        ({"basic": {"username": {}, "password": "x"}}, "configuration"),
        ({"bearer": {}}, "configuration"),
        ({"bearer": {"token": "a\r\nb: c"}}, "authentication"),
        ({"bearer": {"token": ""}}, "authentication"),
        ({"oauth2": "x"}, "configuration"),
        ({"oauth2": {"grant": "client_credentials"}}, "configuration"),
        ({"use": "missing"}, "configuration"),
        ({"basic": {"use": "missing"}}, "authorization"),
        ({"basic": {"use": "unlisted"}}, "authorization"),
    ],
)
async def test_a_policy_that_comes_to_nothing_is_refused(policy: Any, kind: str) -> None:
    content = {"use": {"secrets": ["missing"]}}
    async with caller(secrets=MappedSecrets({"unlisted": "x"}), content=content) as task:
        with pytest.raises(TaskError) as caught:
            await authorization(policy, task.call)
    assert caught.value.type.endswith(kind)


async def test_a_policy_is_found_by_its_name_and_its_expressions_are_evaluated() -> None:
    content = {"use": {"authentications": {"mine": {"bearer": {"token": "${ .token }"}}}}}

    async def evaluate(value: Any, given: Any = None) -> Any:
        assert value == content["use"]["authentications"]["mine"]
        return {"bearer": {"token": "evaluated"}}

    async with caller(content=content) as task:
        call = attrs.evolve(task.call, evaluate=evaluate)
        assert (await authorization({"use": "mine"}, call)).header == "Bearer evaluated"


@pytest.mark.parametrize(
    ("policy", "secret", "header"),
    [
        ("basic", {"username": "a", "password": "b"}, "Basic YTpi"),
        ("bearer", {"token": "t"}, "Bearer t"),
        ("bearer", "t", "Bearer t"),
    ],
)
async def test_a_policy_can_be_a_secret(policy: str, secret: Any, header: str) -> None:
    content = {"use": {"secrets": ["mine"]}}
    async with caller(content=content, secrets=MappedSecrets({"mine": secret})) as task:
        assert (await authorization({policy: {"use": "mine"}}, task.call)).header == header


@pytest.mark.parametrize(
    "arguments",
    [
        {"endpoint": {"uri": "x", "authentication": {"use": "p"}}},
        {"document": {}, "authentication": {"use": "p"}},
        {"service": {"name": "x", "authentication": {"use": "p"}}},
        {"server": {"uri": "x", "authentication": {"use": "p"}}},
        {"transport": {"http": {"endpoint": {"uri": "x", "authentication": {"use": "p"}}}}},
    ],
)
def test_the_policy_of_a_call_is_found_where_it_is_written(arguments: Any) -> None:
    assert policy_of(arguments) == {"use": "p"}


@pytest.mark.parametrize("arguments", [{}, {"endpoint": "x"}, {"endpoint": {"uri": "x"}}])
def test_a_call_without_a_policy_has_none(arguments: Any) -> None:
    assert policy_of(arguments) is None


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"grant": "client_credentials"}, {}),
        (
            {"grant": "client_credentials", "scopes": ["a", "b"], "audiences": ["c", "d"]},
            {"scope": "a b", "audience": ["c", "d"]},
        ),
        (
            {"grant": "password", "username": "ann", "password": 1},
            {"username": "ann", "password": "1"},
        ),
        (
            {"grant": "refresh_token", "subject": {"token": "r", "type": "x"}},
            {"refresh_token": "r"},
        ),
        ({"grant": "authorization_code", "subject": {"token": "c", "type": "x"}}, {"code": "c"}),
        (
            {"grant": EXCHANGE, "subject": {"token": "s", "type": "t"}},
            {"subject_token": "s", "subject_token_type": "t"},
        ),
        (
            {
                "grant": EXCHANGE,
                "subject": {"token": "s", "type": "t"},
                "actor": {"token": "a", "type": "u"},
            },
            {
                "subject_token": "s",
                "subject_token_type": "t",
                "actor_token": "a",
                "actor_token_type": "u",
            },
        ),
    ],
)
async def test_each_grant_asks_for_a_token(fields: Any, form: Any) -> None:
    proof = {"client_id": "me", "client_secret": "my/secret", "grant_type": fields["grant"]}
    assert await asked(fields) == {**proof, **form}


@pytest.mark.parametrize(
    "fields",
    [
        {"grant": "other"},
        {"grant": None},
        {"grant": "password", "username": "x"},
        {"grant": "refresh_token"},
        {"grant": EXCHANGE, "subject": {"token": "x"}},
        {"grant": "client_credentials", "client": {"authentication": "client_secret_basic"}},
        {"grant": "client_credentials", "client": {"authentication": "private_key_jwt"}},
    ],
)
async def test_a_grant_that_lacks_something_is_refused(fields: Any) -> None:
    with pytest.raises(TaskError) as caught:
        await asked(fields)
    assert caught.value.type.endswith("configuration")


async def test_a_client_can_prove_itself_by_basic_authentication() -> None:
    async with open_authority() as (authority, task):
        fields = {"authority": authority.origin, "grant": "client_credentials"}
        proof = client(authentication="client_secret_basic")
        await authorization({"oauth2": {**fields, "client": proof}}, task.call)
        assert authority.forms == [{"grant_type": ["client_credentials"]}]
        pair = base64.b64decode(authority.headers[0]["authorization"].removeprefix("Basic "))
        assert pair == b"me:my%2Fsecret"


async def test_a_client_can_prove_itself_by_a_jwt_that_its_secret_signs() -> None:
    fields = {"grant": "client_credentials", "client": client(authentication="client_secret_jwt")}
    form = await asked(fields)
    head, claims, signature = form["client_assertion"].split(".")
    made = hmac.digest(b"my/secret", f"{head}.{claims}".encode(), "sha256")
    assert base64.urlsafe_b64encode(made).rstrip(b"=").decode() == signature
    said = msgspec.json.decode(base64.urlsafe_b64decode(claims + "=="))
    assert (said["iss"], said["sub"]) == ("me", "me")
    assert said["aud"].endswith("/oauth2/token")
    assert said["exp"] - said["iat"] == 60
    assert "client_secret" not in form


async def test_a_client_can_prove_itself_by_a_jwt_of_its_own_or_not_at_all() -> None:
    grant = {"grant": "client_credentials"}
    jwt = client(authentication="private_key_jwt", assertion="a.b.c")
    form = await asked({**grant, "client": jwt})
    assert form["client_assertion"] == "a.b.c"
    assert form["client_assertion_type"].endswith("jwt-bearer")
    assert "client_secret" not in form
    form = await asked({**grant, "client": client(authentication="none")})
    assert form == {"grant_type": "client_credentials", "client_id": "me"}


async def test_a_token_can_be_asked_for_in_json() -> None:
    async with open_authority() as (authority, task):
        fields = {
            "authority": f"{authority.origin}/{{tenant}}/",
            "endpoints": {"token": "/{tenant}/token"},
            "request": {"encoding": "application/json"},
            "grant": "client_credentials",
            "audiences": ["a"],
        }
        await authorization({"oauth2": fields}, attrs.evolve(task.call, input={"tenant": "t"}))
        assert authority.forms == [{"grant_type": "client_credentials", "audience": ["a"]}]
        assert authority.paths == ["/t/t/token"]


@pytest.mark.parametrize("suffix", ["", "/", "/.well-known/openid-configuration"])
@pytest.mark.parametrize("kind", ["oidc", "oauth2"])
async def test_openid_connect_asks_the_authority_where_tokens_are(suffix: str, kind: str) -> None:
    async with open_authority() as (authority, task):
        fields = {"authority": f"{authority.origin}/realm{suffix}", "grant": "client_credentials"}
        for name in ("a", "b"):
            await authorization({kind: {**fields, "client": {"id": name}}}, task.call)
        is_discovered = kind == "oidc" or suffix.startswith("/.")
        path = "/elsewhere/token" if is_discovered else "/realm/oauth2/token"
        assert authority.paths == [path] * 2
        assert authority.discoveries == (1 if is_discovered else 0)


async def called(authority: Authority, task: Caller, **fields: Any) -> Any:
    policy = {"oauth2": {"authority": authority.origin, "grant": "client_credentials", **fields}}
    endpoint = {"uri": f"{authority.origin}/api", "authentication": policy}
    return await task(http, {"method": "get", "endpoint": endpoint})


async def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    clock = FakeClock()
    async with open_authority(clock=clock) as (authority, task):
        with clock.working():
            for _ in range(3):
                await called(authority, task)
        assert len(authority.forms) == 1
        await called(authority, task, scopes=["other"])
        assert len(authority.forms) == 2
        await clock.sleep(91)
        with clock.working():
            assert await called(authority, task) == {"forms": 3}
        assert len(authority.forms) == 3


async def test_each_authority_that_a_template_names_gives_its_own_token() -> None:
    async with open_authority() as (authority, task):
        template = f"{authority.origin}/{{tenant}}"
        policy = {"oauth2": {"authority": template, "grant": "client_credentials"}}
        for tenant, header in (("a", "1"), ("b", "2"), ("a", "1")):
            call = attrs.evolve(task.call, input={"tenant": tenant})
            assert (await authorization(policy, call)).header == f"Bearer token-{header}"
        assert authority.paths == ["/a/oauth2/token", "/b/oauth2/token"]


async def test_digest_is_refused_where_there_is_no_challenge() -> None:
    async with caller() as task:
        policy = {"digest": {"username": "ann", "password": "x"}}
        found = await authorization(policy, task.call)
        with pytest.raises(TaskError, match="configuration 400"):
            _ = found.header


async def test_a_token_that_is_refused_is_got_anew_once() -> None:
    async with open_authority() as (authority, task):
        await called(authority, task)
        authority.good = "revoked"
        assert await called(authority, task) == {"forms": 2}
        assert len(authority.forms) == 2
        authority.refuses = True
        with pytest.raises(TaskError) as caught:
            await called(authority, task)
        assert (caught.value.status, len(authority.forms)) == (401, 3)


async def test_a_token_that_json_rpc_refuses_is_got_anew_once() -> None:
    async with open_authority() as (authority, task):
        policy = {"oauth2": {"authority": authority.origin, "grant": "client_credentials"}}
        endpoint = {"uri": f"{authority.origin}/api", "authentication": policy}
        for count, refuses in ((1, False), (2, False), (3, True)):
            authority.refuses = refuses
            found = await task.refused(rpc, {"endpoint": endpoint, "method": "x"})
            assert found[1] == (401 if refuses else 500)  # Its answer is no JSON-RPC.
            assert len(authority.forms) == count
            authority.good = "revoked"


async def test_a_refresh_token_is_used_and_the_grant_if_it_has_expired() -> None:
    clock = FakeClock()
    async with open_authority(clock=clock) as (authority, task):
        authority.given = {"refresh_token": "r1"}
        await called(authority, task)
        authority.given = {}
        await clock.sleep(91)
        await called(authority, task)
        await clock.sleep(91)
        authority.given = {"refresh_token": "r2"}
        await called(authority, task)
        await clock.sleep(91)
        await called(authority, task)
        refreshed = [form.get("refresh_token") for form in authority.forms]
        assert refreshed == [None, ["r1"], ["r1"], ["r2"]]
        await clock.sleep(91)
        authority.status = 400
        with pytest.raises(TaskError):
            await called(authority, task)
        grants = [form["grant_type"] for form in authority.forms[-2:]]
        assert grants == [["refresh_token"], ["client_credentials"]]


def jwt(claims: Any) -> str:
    values: list[Any] = [{}, claims]
    parts = [base64.urlsafe_b64encode(msgspec.json.encode(each)) for each in values]
    return b".".join([*parts, b"x"]).decode().replace("=", "")


@pytest.mark.parametrize(
    ("access", "is_good"),
    [
        (jwt({"iss": "https://good"}), True),
        (jwt({"iss": "https://bad"}), False),
        (jwt([]), False),
        ("opaque", False),
        ("a.b.c", False),
        ("a.é.c", False),
        ("..", False),
    ],
)
async def test_only_tokens_of_the_issuers_are_taken(access: str, is_good: bool) -> None:
    async with open_authority() as (authority, task):
        authority.given = {"access_token": access}
        fields = {"authority": authority.origin, "grant": "client_credentials"}
        policy = {"oauth2": {**fields, "issuers": ["https://good"]}}
        if is_good:
            await authorization(policy, task.call)
        else:
            with pytest.raises(TaskError, match="none of the issuers"):
                await authorization(policy, task.call)


@pytest.mark.parametrize(
    ("status", "given", "detail"),
    [
        (401, {"error": "invalid_client"}, "no token was granted: status 401 (invalid_client)"),
        (400, {"error": "my/secret"}, "no token was granted: status 400"),
        (200, {"access_token": None}, "no token was granted: status 200"),
        (200, {"access_token": "a\nb"}, "the token has characters that no token has"),
    ],
)
async def test_a_token_that_is_not_granted_is_an_error_of_authentication(
    status: int, given: Any, detail: str
) -> None:
    async with open_authority() as (authority, task):
        authority.status, authority.given = status, given
        with pytest.raises(TaskError) as caught:
            await called(authority, task, client=client())
    assert (caught.value.type.rpartition("/")[2], caught.value.status) == ("authentication", 401)
    assert caught.value.detail == detail


async def test_a_token_that_comes_back_is_kept_from_the_output() -> None:
    async with open_authority() as (authority, task):
        authority.given = {"access_token": "forms"}
        authority.good = "forms"
        assert await called(authority, task) == {"***": 1}


async def test_a_token_endpoint_is_a_host_that_must_be_allowed() -> None:
    async with caller(outgoing={"hosts": ["api.example"]}) as task:
        fields = {"authority": "http://127.0.0.1", "grant": "client_credentials"}
        with pytest.raises(TaskError) as caught:
            await authorization({"oauth2": fields}, task.call)
    assert caught.value.type.endswith("authorization")


@attrs.define
class Digest:
    """Asks for digest authentication, and checks it by RFC 7616."""

    algorithm: str = "MD5"
    qop: str = ', qop="auth"'
    seen: int = 0

    async def answer(self, request: Request) -> Response:
        self.seen += 1
        header = request.headers.get("authorization", "")
        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
        if header.startswith("Digest ") and fields["response"] == self.expected(request, fields):
            return JSONResponse({"body": (await request.body()).decode()})
        challenge = f'Digest realm="r", nonce="n", algorithm={self.algorithm}{self.qop}'
        return Response(status_code=401, headers={"www-authenticate": challenge})

    def expected(self, request: Request, fields: Mapping[str, str]) -> str:
        def digest(text: str) -> str:
            return hashlib.new(self.algorithm.replace("-", ""), text.encode()).hexdigest()

        one, two = digest("ann:r:word"), digest(f"{request.method}:{fields['uri']}")
        middle = f"{fields['nc']}:{fields['cnonce']}:auth:" if self.qop else ""
        return digest(f"{one}:n:{middle}{two}")


@contextlib.asynccontextmanager
async def open_digest(**fields: Any) -> AsyncIterator[tuple[Digest, Any]]:
    server = Digest(**fields)
    app = Starlette(routes=[Route("/x", server.answer, methods=["POST"])])
    async with served(app) as origin, caller() as task:

        async def call(password: str) -> Any:
            policy = {"digest": {"username": "ann", "password": password}}
            endpoint = {"uri": f"{origin}/x?a=1", "authentication": policy}
            return await task(http, {"method": "post", "endpoint": endpoint, "body": "b"})

        yield server, call


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize("qop", [', qop="auth"', ', qop="auth-int, auth"', ""])
async def test_digest_answers_the_challenge(algorithm: str, qop: str) -> None:
    async with open_digest(algorithm=algorithm, qop=qop) as (server, call):
        assert await call("word") == {"body": "b"}
        with pytest.raises(TaskError) as caught:
            await call("wrong")
        assert (caught.value.status, server.seen) == (401, 4)


@pytest.mark.parametrize(
    "fields",
    [{"algorithm": "ROT13"}, {"qop": ', qop="auth-int"'}, {"qop": ', qop="x"'}, {"qop": ", x"}],
)
async def test_a_challenge_that_is_not_understood_is_an_error_of_authentication(
    fields: Any,
) -> None:
    async with open_digest(**fields) as (_, call):
        with pytest.raises(TaskError, match="the challenge is not understood"):
            await call("word")


async def test_what_proves_who_calls_shows_no_secret() -> None:
    async with caller() as task:
        for policy in (
            {"basic": {"username": "ann", "password": "s3cret"}},
            {"digest": {"username": "ann", "password": "s3cret"}},
            {"bearer": {"token": "s3cret"}},
        ):
            proof = await authorization(policy, task.call)
            for shown in (repr(proof), str(proof), repr(proof.auth)):
                assert "s3cret" not in shown
                assert base64.b64encode(b"ann:s3cret").decode() not in shown
