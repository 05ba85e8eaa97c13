"""What a driver may be given, and what it never shows; other loops and other processes."""

import asyncio
import os
import threading
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import DriverClosedError, FlowstateError, InvalidInputError, StoreUnavailableError
from flowstate.driver import Seen
from flowstate.drivers.redis import RedisDriver
from flowstate.testing.faults.ports import free_port
from tests.redis.support import head_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, put, read_log

URL = "redis://127.0.0.1:1/0"
SECRET = "s3cr3t"  # noqa: S105
MALFORMED = [
    f"http://user:{SECRET}@localhost",
    f"user:{SECRET}@localhost",
    f"redis://user:{SECRET}@localhost:port/0",
    f"redis://user:{SECRET}@localhost:99999999/0",
    f"redis://user:{SECRET}@[localhost/0",
    f"redis://user:{SECRET}@localhost/0?socket_timeout={SECRET}",
    "redis://localhost/0?retry_on_error=x",
    "redis://localhost/0?event_dispatcher=x",
    SECRET,
    "",
]


@pytest.mark.parametrize("store", [3, None, [], b"redis://localhost", *MALFORMED], ids=repr)
def test_a_store_that_is_none(store: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^store: ") as caught:
        RedisDriver(store)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


BAD: list[dict[str, Any]] = [
    {"timeout": value} for value in (0, -1, "1", None, float("nan"), float("inf"), True, 1e9)
]
BAD += [{"require_durability": value} for value in ("all", None, 1)]
BAD += [{"wait_aof": value} for value in ((2, 0), (-1, 0), (1,), 1, "ab", (0, 1_001))]
BAD += [{"clock": value} for value in (3, b"", "now")]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_an_option_that_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidInputError, match=f"^{name}: "):
        RedisDriver(URL, **options)


async def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    driver = RedisDriver(f"redis://user:{SECRET}@127.0.0.1:{free_port()}/0", timeout=0.1)
    assert SECRET not in repr(driver)
    with pytest.raises(StoreUnavailableError) as caught:
        await driver.__aenter__()
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


async def test_values_are_not_shown(
    redis_server: RedisLike, redis_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not by a server that repeats what it does not know."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        store = driver._opened()

        async def unknown(script: str, *arguments: str) -> object:
            return await store.client.execute_command("EVALXYZ", script, *arguments)

        monkeypatch.setattr(store.scripts, "run", unknown)
        with pytest.raises(FlowstateError) as caught:
            await driver.get_state(SECRET)
        assert SECRET not in str(caught.value)


async def test_another_event_loop(redis_server: RedisLike, redis_namespace: str) -> None:
    """A call from there is refused at once."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        found: list[BaseException] = []

        def call(ask: Any) -> None:
            try:
                asyncio.run(ask())
            except InvalidInputError as error:
                found.append(error)

        asks = [lambda: head_of(driver), lambda: driver.changed(Seen()), driver.__aenter__]
        for ask in asks:
            thread = threading.Thread(target=call, args=(ask,))
            thread.start()
            await asyncio.to_thread(thread.join)
        assert len(found) == len(asks)
        assert await head_of(driver) == 0


def in_child(work: Any) -> int:
    """Return 0 if a forked process does it without an error."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_made_before_a_fork(redis_server: RedisLike, redis_namespace: str) -> None:
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)

    async def commit(id: str) -> None:
        async with driver:
            await commit_one(driver, put(id, id))

    assert [in_child(lambda id=id: asyncio.run(commit(id))) for id in "abc"] == [0, 0, 0]
    asyncio.run(commit("d"))


def test_opened_before_a_fork(redis_server: RedisLike, redis_namespace: str) -> None:
    """It refuses in the child, and goes on in the parent."""
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)

    def refused() -> None:
        for ask in (lambda: head_of(driver), driver.__aenter__):
            with pytest.raises(DriverClosedError):
                asyncio.run(ask())

    async def fork() -> None:
        async with driver:
            await commit_one(driver, put("1", "a"))
            assert in_child(lambda: run_without_loop(refused)) == 0
            (state,) = await read_log(driver)
            assert replace(state, rev=0).id == "a"

    asyncio.run(fork())


def run_without_loop(work: Any) -> None:
    """Run in a thread, where the event loop of the parent does not run."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - of another thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
