"""No memory left, or a script that runs for too long: a commit happens wholly or not at all."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from flowstate import (
    Data,
    DriverError,
    Engine,
    FlowRegistry,
    State,
    Status,
    StoreBusyError,
    StoreFullError,
    Transition,
)
from flowstate.driver import Claim, Drop, DueQuery, Heartbeat, NewDelay, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.testcases.support import encoded
from tests.load import Load
from tests.redis.support import check_keys, head_of, liveness_of
from tests.redis_servers import VERSIONS, RedisServer
from tests.support import commit_one, put, read_log

pytestmark = pytest.mark.slow

SPIN = "for _ = 1, tonumber(ARGV[1]) do end"
LONG = 100_000_000  # Rounds: about half a second.


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(version=request.param) as server:
        yield server


def large(number: int) -> Writes:
    """Return writes of every kind."""
    state = State(
        f"s{number}",
        labels={"kind": "large", "n": f"{number}"},
        annotations={"text": "x" * 20_000},
        transition=Transition("next"),
    )
    data = Data(b"%d" % number + bytes(20_000))
    delay = NewDelay(state, "next", FrozenDict(), None, timedelta(0), commit=True, body="", put=0)
    return encoded(Writes(f"t{number}", (state,), data=(data,), delays=(delay,)))


def used_memory(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("memory")["used_memory"])


async def fill(driver: RedisDriver) -> int:
    """Commit until there is no room left; return how many commits there were."""
    for number in range(10_000):
        try:
            await commit_one(driver, large(number))
        except StoreFullError:
            return number
    raise AssertionError("never full")


async def test_no_memory_left(server: RedisServer) -> None:
    async with RedisDriver(server.url(), timeout=2.0) as driver:
        await commit_one(driver, large(99_999))
        claim = Claim("t99999.0", "holder", 60.0)
        await commit_one(driver, Writes("claim", claims=(claim,)))
        server.ask("CONFIG", "SET", "maxmemory", used_memory(server) + 2_000_000)
        count = await fill(driver)
        assert count > 10
        # What scripts leave to the garbage collector counts, so that there may be room again.
        server.ask("CONFIG", "SET", "maxmemory", used_memory(server) // 2)
        verdicts = await driver.commit([large(count), large(count + 1)])
        assert {type(verdict) for verdict in verdicts} == {StoreFullError}
        check_keys(server, "flowstate")
        assert await head_of(driver) == count + 1
        assert len(await read_log(driver)) == count + 1
        page = await driver.get_states(StateQuery(labels=(FrozenDict(kind="large"),), limit=1_000))
        assert len(page.states) == count + 1
        due = (await driver.get_due(DueQuery("delay", everything=True, limit=1_000))).due
        assert len(due) == count + 1
        drop = Writes("drop", drops=(Drop(due[-1].id, "holder"),))
        await commit_one(driver, drop)
        server.ask("CONFIG", "SET", "maxmemory", 0)
        assert len((await driver.get_due(DueQuery("delay", limit=1_000))).due) == count
        await commit_one(driver, large(count))
        assert await head_of(driver) == count + 2
        check_keys(server, "flowstate")


async def test_compaction_makes_room(server: RedisServer) -> None:
    async with RedisDriver(server.url(), timeout=2.0) as driver:
        for number in range(100):
            annotations = large(0).puts[0].annotations
            state = State("a", number, annotations=annotations, transition=Transition("next"))
            await commit_one(driver, Writes(f"{number}", (state,)))
        server.ask("CONFIG", "SET", "maxmemory", used_memory(server) - 200_000)
        with pytest.raises(StoreFullError):
            await commit_one(driver, put("full", "b"))
        assert await driver.compact(1_000) == 99
        await commit_one(driver, put("full", "b"))
        assert [state.rev for state in await read_log(driver)] == [100, 101]


async def test_a_heartbeat_without_memory(server: RedisServer) -> None:
    """It is refused, and so is the end of what had one: not even the heartbeat is gone."""
    async with RedisDriver(server.url(), timeout=1.0) as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        assert await driver.beat([Heartbeat("a", 1, 60.0, "before")]) == [True]
        before = await liveness_of(driver, "a")
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreFullError):
            await driver.beat([Heartbeat("a", 1, 600.0, "x"), Heartbeat("a", 0, 1.0, "x")])
        with pytest.raises(StoreFullError):
            await commit_one(driver, Writes("2", (replace(state, status=Status.ENDED),)))
        after = await liveness_of(driver, "a")
        assert after == replace(before, now=after.now)
        server.ask("CONFIG", "SET", "maxmemory", 0)
        assert await driver.beat([Heartbeat("a", 1, None, "after")]) == [True]
        check_keys(server, "flowstate")


@contextlib.contextmanager
def busy(server: RedisServer, script: str, rounds: int = 0) -> Iterator[socket.socket]:
    """Run a script, which other clients are told of soon, and wait for its end."""
    server.ask("CONFIG", "SET", "lua-time-limit", 20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for words in (("AUTH", server.password), ("EVAL", script, "0", f"{rounds}")):
            text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{text}".encode())
            if words[0] == "AUTH":
                connection.recv(100)
        yield connection
        connection.recv(100)


async def test_a_script_that_ends(server: RedisServer) -> None:
    async with RedisDriver(server.url()) as driver:
        await commit_one(driver, put("1", "a"))
        with busy(server, SPIN, LONG):
            await asyncio.sleep(0.05)  # reason: the server is to have got the script
            (state,) = await commit_one(driver, put("2", "b"))
        assert state.rev == 2
        assert await head_of(driver) == 2


async def test_a_script_that_does_not_end(server: RedisServer) -> None:
    async with RedisDriver(server.url(), timeout=0.3) as driver:
        await commit_one(driver, put("1", "a"))
        with busy(server, "while true do end"):
            await asyncio.sleep(0.1)  # reason: the server is to have got the script
            started = time.monotonic()
            with pytest.raises(StoreBusyError):
                await commit_one(driver, put("2", "b"))
            with pytest.raises(StoreBusyError):
                await head_of(driver)
            with pytest.raises(StoreBusyError):
                await RedisDriver(server.url(), timeout=0.1).__aenter__()
            assert time.monotonic() - started < 5.0
            server.ask("SCRIPT", "KILL")
        assert await head_of(driver) == 1
        (state,) = await commit_one(driver, put("2", "b"))
        assert state.rev == 2


async def test_load_while_others_keep_it_busy(server: RedisServer) -> None:
    async with Load(RedisDriver(server.url())) as load:
        for _ in range(5):
            await load.more(20)
            await asyncio.to_thread(keep_busy, server)
    assert "CommitUnknownError" not in load.outcomes


def keep_busy(server: RedisServer) -> None:
    with busy(server, SPIN, LONG // 2):
        pass


async def test_an_engine_goes_on_after_a_full_store(server: RedisServer) -> None:
    driver = RedisDriver(server.url(), timeout=1.0)
    async with Engine(driver, FlowRegistry()) as engine, engine.watch(since_rev=0) as states:
        await commit_one(driver, put("1", "a"))
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(DriverError):
            await commit_one(driver, put("2", "b"))
        assert (await anext(states)).rev == 1
        server.ask("CONFIG", "SET", "maxmemory", 0)
        await commit_one(driver, put("3", "c"))
        assert (await anext(states)).id == "c"
