"""An order is paid, refused or expired, whenever the bank answers."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.engines.tasks.examples.driving import event, example, stands_at

ORDER = {"id": "o-7", "cents": 500}
LISTENS = "/do/2/settle/try/0/awaitAnswer"


class Bank:
    """A bank that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.keys = set[str | None]()

    async def answer(self, request: Request) -> Response:
        body = await request.json() if request.method == "POST" else None
        self.asked.append((f"{request.method} {request.url.path}", body))
        self.keys.add(request.headers.get("idempotency-key"))
        return JSONResponse({"accepted": True}, 202)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{p:path}", self.answer, methods=["POST", "DELETE"])])


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.mark.parametrize(("answer", "state"), [("settled", "paid"), ("refused", "refused")])
@pytest.mark.parametrize("is_early", [True, False])
async def test_the_answer_decides_whenever_it_comes(
    bank: Bank, answer: str, state: str, is_early: bool
) -> None:
    async with example("order-with-payment", bank.app, hosts=("bank.example",)) as tasks:
        id = await tasks.start("examples/order-with-payment", ORDER)
        if not is_early:
            await stands_at(tasks.kernel, id, LISTENS, timeout=20)
        await tasks.publish(event(f"bank.payment.{answer}", "another"))
        await tasks.publish(event(f"bank.payment.{answer}", "o-7"))

        assert await tasks.result(id) == {"id": "o-7", "state": state}
    assert bank.asked == [("POST /payments", {"order": "o-7", "cents": 500})]
    assert None not in bank.keys


async def test_without_an_answer_the_order_expires_and_is_withdrawn(bank: Bank) -> None:
    async with example("order-with-payment", bank.app, hosts=("bank.example",)) as tasks:
        clock = tasks.engine.clock
        before = clock.monotonic()
        id = await tasks.start("examples/order-with-payment", ORDER)

        assert await tasks.result(id) == {"id": "o-7", "state": "expired"}
        assert 900 <= clock.monotonic() - before < 960
    assert bank.asked[1:] == [("DELETE /payments/o-7", None)]
