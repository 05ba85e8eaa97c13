"""A secret in every place where one can be is in no state, log record, error, or text."""

import base64
import contextlib
import logging
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import attrs
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate import State
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.tasks.calls.functions import typed
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.running.driving import Running, running

SECRETS = {
    "password": {"username": "anna", "password": "p4ss word/1"},
    "token": "t0ken-of-a-user",
    "client": {"id": "me", "secret": "cl1ent/secret"},
    "short": "x7Q",
}
GRANTED = "gr4nted-token"
BASIC = base64.b64encode(b"anna:p4ss word/1").decode()
HIDDEN = ["p4ss word/1", "t0ken-of-a-user", "cl1ent/secret", "x7Q", GRANTED, BASIC]
HIDDEN += [quoted for each in HIDDEN for quoted in (quote(each, safe=""), quote_plus(each))]

AUTHENTICATIONS = {
    "basic": "basic: {use: password}",
    "digest": "digest: {use: password}",
    "bearer": "bearer: {use: token}",
    "expression": "bearer: {token: '${ $secrets.token }'}",
    "oauth2": """
      oauth2:
        authority: ${ $workflow.input.origin }
        grant: client_credentials
        client: {id: '${ $secrets.client.id }', secret: '${ $secrets.client.secret }'}
    """,
    "oidc": """
      oidc:
        authority: ${ $workflow.input.origin }
        grant: client_credentials
        client:
          id: me
          secret: ${ $secrets.client.secret }
          authentication: client_secret_basic
    """,
}
USES = {
    "header": "headers: {x-api-key: '${ $secrets.token }'}",
    "query": "query: {key: '${ $secrets.password.password }'}",
    "body": "body: {inner: ['${ $secrets.token }', '${ $secrets.password }']}",
    "authorization": "headers: {x-copy: '${ $authorization.parameter }'}",
}


@attrs.define
class Server:
    """Answers all that it gets, and keeps whether a secret has come."""

    status: int = 200
    echoes: bool = False
    got: str = ""

    async def answer(self, request: Request) -> Response:
        header = request.headers.get("authorization", "")
        if "Digest" not in header and request.url.path == "/digest":
            challenge = {"www-authenticate": 'Digest realm="r", nonce="n"'}
            return Response(status_code=401, headers=challenge)
        body = (await request.body()).decode()
        self.got += f"{request.url} {dict(request.headers)} {body}"
        told = {"url": str(request.url), "body": body, "headers": dict(request.headers)}
        return JSONResponse(told if self.echoes else {"ok": True}, self.status)

    async def grant(self, request: Request) -> Response:
        self.got += (await request.body()).decode()
        return JSONResponse({"access_token": GRANTED, "expires_in": 60})

    async def discover(self, request: Request) -> Response:
        return JSONResponse({"token_endpoint": f"{request.base_url}oauth2/token"})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/oauth2/token", self.grant, methods=["POST"]),
                Route("/.well-known/openid-configuration", self.discover),
                Route("/{path:path}", self.answer, methods=["GET", "POST"]),
            ]
        )


@attrs.define
class Watched:
    """Documents that run, and all texts that are made meanwhile."""

    tasks: Running
    outgoing: Outgoing
    origin: str
    server: Server
    log: pytest.LogCaptureFixture

    async def run(self, text: str) -> Any:
        """Run a document; return its result, or its error."""
        self.log.clear()
        try:
            return await self.tasks.run(text, {"origin": self.origin})
        except InstanceFailedError as error:
            return error

    async def texts(self) -> AsyncIterator[str]:
        history = [state async for state in self.tasks.kernel.engine.history("i")]
        assert len(history) > 1
        for state in history:
            yield from_state(state)
        for record in self.log.records:
            yield f"{record.getMessage()} {record.args!r} {record.exc_info!r}"
        yield repr(self.tasks.code.runtime)
        yield repr(self.outgoing)
        yield repr(self.outgoing.tokens)

    async def check(self, outcome: Any) -> None:
        texts = [text async for text in self.texts()]
        texts.append(str(outcome))
        while isinstance(outcome, BaseException):
            texts.append(f"{outcome} {outcome!r} {vars(outcome)}")
            outcome = outcome.__cause__
        for text in texts:
            for hidden in HIDDEN:
                assert hidden not in text


def from_state(state: State) -> str:
    """Return all that a store has of a state."""
    return " ".join(repr(getattr(state, name)) for name in state.__struct_fields__)


@contextlib.asynccontextmanager
async def watched(log: pytest.LogCaptureFixture, **functions: Any) -> AsyncIterator[Watched]:
    log.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "asyncio", "flowstate"):
        log.set_level(logging.DEBUG, name)
    server = Server()
    options: Mapping[str, Any] = {"secrets": MappedSecrets(SECRETS)}
    async with (
        served(server.app()) as origin,
        Outgoing(private=["127.0.0.1"]) as outgoing,
        InProcessExpressions() as expressions,
        running(functions, outgoing=outgoing, **options) as tasks,
    ):
        tasks.code.runtime.expressions = expressions
        yield Watched(tasks, outgoing, origin, server, log)


def document(policy: str, more: str = "", path: str = "x") -> str:
    indented = textwrap.indent(textwrap.dedent(policy).strip(), " " * 6)
    return f"""
use:
  secrets: [password, token, client, short]
  authentications:
    mine:
{indented}
do:
  - ask:
      call: http
      with:
        method: post
        endpoint:
          uri: ${{ $workflow.input.origin + "/{path}" }}
          authentication: {{use: mine}}
        output: response
        {more}
"""


def has_come(got: str) -> bool:
    return any(hidden in got for hidden in HIDDEN) or "Digest username" in got


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize("kind", AUTHENTICATIONS)
async def test_what_authenticates_is_kept_nowhere(
    kind: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(caplog) as tasks:
        tasks.server.status, tasks.server.echoes = status, True
        outcome = await tasks.run(document(AUTHENTICATIONS[kind], path=kind))
        assert isinstance(outcome, dict) is (status == 200), outcome
        assert has_come(tasks.server.got)
        await tasks.check(outcome)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("echoes", [False, True])
@pytest.mark.parametrize("use", USES)
async def test_what_is_sent_is_kept_nowhere_even_if_it_comes_back(
    use: str, echoes: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(caplog) as tasks:
        tasks.server.status, tasks.server.echoes = status, echoes
        outcome = await tasks.run(document("bearer: {use: token}", USES[use]))
        assert has_come(tasks.server.got)
        await tasks.check(outcome)


async def test_a_short_secret_is_kept_nowhere_unless_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = "headers: {x-short: 'a${ $secrets.short }b'}"
    async with watched(caplog) as tasks:
        outcome = await tasks.run(document("bearer: {use: token}", more))
        assert outcome["request"]["headers"]["x-short"] == "a***b"
        assert "ax7Qb" in tasks.server.got
        await tasks.check(outcome)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:1", "http://10.0.0.1", "ftp://x", "nothing"])
@pytest.mark.parametrize("use", USES)
async def test_what_could_not_be_sent_is_kept_nowhere(
    use: str, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(caplog) as tasks:
        tasks.origin = origin
        outcome = await tasks.run(document("basic: {use: password}", USES[use]))
        assert isinstance(outcome, InstanceFailedError)
        await tasks.check(outcome)


@pytest.mark.parametrize("uri", ["/{}", "/x?key={}", "/x#{}", "{}/x", ":{}@127.0.0.1/"])
async def test_a_uri_that_has_a_secret_is_kept_nowhere(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = uri.format('" + $secrets.token + "')
    async with watched(caplog) as tasks:
        tasks.server.status = 404
        outcome = await tasks.run(document("bearer: {use: token}").replace("/x", made))
        assert isinstance(outcome, InstanceFailedError)
        await tasks.check(outcome)


@pytest.mark.parametrize(
    "program", ["$secrets.token + 1", "$authorization.parameter | tonumber", "$secrets | error"]
)
async def test_an_expression_that_fails_tells_no_secret(
    program: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(caplog) as tasks:
        more = f"body: '${{ {program} }}'"
        outcome = await tasks.run(document(AUTHENTICATIONS["oauth2"], more))
        assert "expression 400" in str(outcome)
        await tasks.check(outcome)


@pytest.mark.parametrize(
    "field", ["output: {as: '${ $authorization }'}", "export: {as: '${ $secrets }'}"]
)
async def test_what_is_kept_cannot_have_a_secret(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(caplog) as tasks:
        text = document("bearer: {use: token}").rstrip() + f"\n      {field}\n"
        outcome = await tasks.run(text)
        assert isinstance(outcome, InstanceFailedError)
        await tasks.check(outcome)


async def test_a_function_that_tells_a_secret_is_kept_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def tell(key: str) -> Any:
        raise RuntimeError(f"the key {key} is wrong")

    async def refuse(key: str) -> Any:
        raise TaskError("https://x", 400, key, key, key, {"key": [key]})

    async def give(key: str) -> Any:
        return {"key": key, key: 1}

    for function in (tell, refuse, give):
        async with watched(caplog, mine=typed(function)) as tasks:
            outcome = await tasks.run(
                """
                use: {secrets: [token]}
                do:
                  - ask:
                      call: mine
                      with: {key: '${ $secrets.token }'}
                """
            )
            assert "***" in f"{outcome} {getattr(outcome, '__cause__', '')}"
            await tasks.check(outcome)


@pytest.mark.parametrize(
    "sent",
    [
        "authentication: {use: mine}",
        "authentication: {basic: {use: password}}",
        "authentication: {bearer: {token: '${ $secrets.token }'}}",
    ],
)
async def test_a_function_of_a_catalog_cannot_send_the_secrets_of_a_document_away(
    sent: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "function.yaml").write_text(
        f"""
        do:
          - send:
              call: http
              with:
                method: post
                endpoint:
                  uri: ${{ $workflow.input.origin }}
                  {sent}
        """
    )
    async with watched(caplog) as tasks:
        tasks.outgoing.files = tmp_path
        text = document("bearer: {use: token}").partition("do:")[0]
        outcome = await tasks.run(f"{text}do: [{{ask: {{call: 'file://function.yaml'}}}}]")
        assert "a function of a catalog gets no secrets" in str(outcome)
        assert tasks.server.got == ""
        await tasks.check(outcome)


async def test_a_secret_that_is_not_listed_or_not_there_is_an_error_that_can_be_caught(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watched(caplog) as tasks:
        outcome = await tasks.run(
            """
            use: {secrets: [missing]}
            do:
              - ask:
                  try:
                    - inner:
                        call: http
                        with:
                          method: get
                          endpoint:
                            uri: http://127.0.0.1:1
                            authentication: {basic: {use: missing}}
                  catch:
                    errors: {with: {status: 403}}
                    as: problem
                    do:
                      - keep: {set: {detail: '${ $problem.detail }'}}
            """
        )
        assert outcome == {"detail": "there is no secret 'missing' for this use"}
