"""Callbacks by signed URL: taken once, by the wait that they are for, and only in time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from flowstate import (
    FakeClock,
    InvalidCommandError,
    InvalidInputError,
    StateNotFoundError,
    SystemClock,
)
from flowstate.engines.workflow.callbacks import Callback, CallbackRefusedError, SignedUrls
from flowstate.engines.workflow.sections import For, On, Sections, Step, Wait
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.sections.definitions import Data, Note, add, count, noted
from tests.engines.sections.running import ended, in_memory, opened, stands
from tests.engines.stores import STORES, driver_of

BASE = "https://shop.example/callbacks/"
SECRETS = [b"a secret of the shop"]


def asked(urls: SignedUrls, told: list[str], name: str = "asked") -> Sections:
    """Return a workflow that waits for two callbacks, one after the other."""

    def tell(_: Data, url: str) -> None:
        told.append(url.removeprefix(BASE))

    step = Step("count", count)
    answer = On("answer", Callback(urls, noted, tell), step)
    return Sections(name, Data, For(lambda s: s.n < 2, Wait("ask", answer)), Step("z", add("z")))


told: list[str] = []
urls = SignedUrls(BASE, SECRETS)
code = asked(urls, told)


@pytest.fixture(params=STORES)
async def workflows(request: pytest.FixtureRequest) -> AsyncIterator[Workflows]:
    told.clear()
    async with opened(driver_of(request.param, request), SystemClock(), code) as workflows:
        yield workflows


async def test_each_is_for_one_wait_of_one_instance(workflows: Workflows) -> None:
    await workflows.start(code, "i", Data())
    await stands(workflows, "i", "ask")
    assert await urls.deliver(workflows, told[0], b'{"text":"1"}') == {"text": "1", "n": 0}
    await stands(workflows, "i", "ask")
    assert await urls.deliver(workflows, told[0], b'{"text":"1"}') == {"text": "1", "n": 0}
    with pytest.raises(LookupError):
        await urls.deliver(workflows, told[0], b'{"text":"other"}')
    with pytest.raises(msgspec.ValidationError):
        await urls.deliver(workflows, told[-1], b'{"text":2}')
    assert await urls.deliver(workflows, told[-1], b'{"text":"2"}') == {"text": "2", "n": 0}

    assert (await ended(workflows, "i")).log == "12z"
    with pytest.raises(InvalidCommandError):
        await urls.deliver(workflows, told[-1], b'{"text":"3"}')


async def test_one_that_comes_while_it_is_set_up_waits_for_that() -> None:
    going, go_on = asyncio.Event(), asyncio.Event()
    here = SignedUrls(BASE, SECRETS)
    given: list[str] = []

    async def tell(_: Data, url: str) -> None:
        given.append(url.removeprefix(BASE))
        going.set()
        await go_on.wait()

    slow = Sections("slow", Data, Wait("ask", On("answer", Callback(here, noted, tell))))
    async with in_memory(slow) as workflows:
        await workflows.start(slow, "i", Data())
        await going.wait()
        soon = asyncio.create_task(here.deliver(workflows, given[0], b'{"text":"x"}', timeout=None))
        await workflows.engine.wait_for("i", until=lambda each: each.labels["stop"] == "ask.setup")
        go_on.set()

        assert await soon == {"text": "x", "n": 0}
        assert (await ended(workflows, "i")).log == "x"


def changed(token: str, place: int) -> str:
    other = "A" if token[place] != "A" else "B"
    return token[:place] + other + token[place + 1 :]


async def test_what_is_not_signed_here_or_too_old_is_refused() -> None:
    clock, given = FakeClock(), list[str]()
    ours = SignedUrls(BASE, SECRETS, timedelta(hours=1), clock=clock)
    rotated = SignedUrls(BASE, [b"the secret from today on", *SECRETS], clock=clock)
    theirs = SignedUrls(BASE, [b"a secret of others"], clock=clock)
    some = asked(ours, given)
    async with in_memory(some, clock=clock) as workflows:
        await workflows.start(some, "i", Data())
        await stands(workflows, "i", "ask")
        token = given[0]
        for wrong in [
            "",
            "é",
            "A",
            token[:40],
            *[changed(token, n) for n in range(len(token) - 1)],
        ]:
            with pytest.raises(CallbackRefusedError):
                await ours.deliver(workflows, wrong, b"{}")
        with pytest.raises(CallbackRefusedError, match="not signed"):
            await theirs.deliver(workflows, token, b"{}")
        with pytest.raises(InvalidInputError):
            await ours.deliver(workflows, token, b"no JSON")
        assert await rotated.deliver(workflows, token, b'{"text":"x"}') == {"text": "x", "n": 0}
        async with in_memory(some, clock=clock) as others:
            with pytest.raises(StateNotFoundError):
                await ours.deliver(others, token, b"{}")
        await clock.sleep(3601)
        with pytest.raises(CallbackRefusedError, match="time"):
            await ours.deliver(workflows, given[-1], b'{"text":"y"}')


@pytest.mark.parametrize("secrets", [[], [b"short"], [SECRETS[0], b""]])
def test_a_secret_has_some_length(secrets: list[bytes]) -> None:
    with pytest.raises(InvalidInputError):
        SignedUrls(BASE, secrets)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(urls).replace("secrets", "")


def test_the_handler_says_what_comes() -> None:
    source: Any = Callback(urls, noted, print)

    assert On("answer", source).receiver.update.takes is Note
