"""No password and no value of a user in an error, a log record or a repr."""

import asyncio
import gc
import logging
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Data,
    Delay,
    Delayer,
    Engine,
    Execute,
    FlowRegistry,
    FlowstateError,
    GetData,
    Pause,
    State,
    StateContext,
    StoreData,
    Transit,
)
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.recovery import Lease
from tests.world.places import Place

SECRET = "hunter2-and-more"  # noqa: S105 - it must not come back
AWAY = "127.0.0.1:1"
POSTGRES = [
    f"postgresql://user:{SECRET}@{AWAY}/db",
    f"postgresql://user:1{SECRET}@{AWAY}/db",
    f"postgresql://user:{SECRET}[@{AWAY}/db",
    f"postgresql://user:{SECRET}#x@{AWAY}/db",
    f"postgresql://user:1/{SECRET}@{AWAY}/db",
    f"postgresql://user:1?{SECRET}@{AWAY}/db",
    f"postgresql://user:{SECRET}@[::1:1/db",
    f"postgresql://user:{SECRET}\n@{AWAY}/db",
    f"postgresql://user:{SECRET}\0@{AWAY}/db",
    f"postgresql://user:pa:{SECRET}@{AWAY}/db",
    f"postgresql://user:pa,{SECRET}@{AWAY}/db",
    f"postgresql://user:{SECRET}@127.0.0.1:99999/db",
    f"postgresql://{AWAY}/db?password={SECRET}&connect_timeout=x",
    f"postgresql://{AWAY}/{SECRET}@x",
    f"POSTGRESQL://user:{SECRET}@{AWAY}/db",
    f"postgresql+asyncpg://user:{SECRET}@{AWAY}/db",
    f"mysql://user:{SECRET}@{AWAY}/db",
    f"//user:{SECRET}@{AWAY}/db",
    f"user:{SECRET}@{AWAY}/db",
    f"jdbc:postgresql://{AWAY}/db?user=u&password={SECRET}",
    f"host=127.0.0.1 port=1 password={SECRET} connect_timeout=x",
    f"host=127.0.0.1 port=1 password='{SECRET}",
]
REDIS = [
    f"redis://user:{SECRET}@{AWAY}/0",
    f"redis://:{SECRET}@127.0.0.1:{SECRET}/0",
    f"redis://user:{SECRET}@{AWAY}/{SECRET}",
    f"redis://user:{SECRET}/x@{AWAY}/0",
    f"redis://user:1/{SECRET}@{AWAY}/0",
    f"redis://user:1?{SECRET}@{AWAY}/0",
    f"redis://user:1#{SECRET}@{AWAY}/0",
    f"redis://user:{SECRET}[@{AWAY}/0",
    f"redis://user:{SECRET}@[::1:1/0",
    f"redis://user:{SECRET}\n@{AWAY}/0",
    f"redis://user:{SECRET}@h\0st:1/0",
    f"redis://user:{SECRET}@127.0.0.1:99999/0",
    f"redis://{SECRET}@{SECRET}@{AWAY}/0",
    f"redis://{AWAY}/0?password={SECRET}",
    f"redis://{AWAY}/0?passwort={SECRET}",
    f"redis://{AWAY}/0?db={SECRET}",
    f"redis://{AWAY}/0?ssl_cert_reqs={SECRET}",
    f"rediss://user:{SECRET}@{AWAY}/0?ssl_min_version={SECRET}",
    f"unix://user:{SECRET}@/nowhere?db=0",
    f"http://user:{SECRET}@{AWAY}",
    SECRET,
]


def chain(error: BaseException | None) -> list[str]:
    """Return all that an error leads to, also what a traceback leaves out."""
    told = []
    while error is not None:
        told += [str(error), repr(error)]
        if isinstance(error, FlowstateError):
            told.append(repr(vars(error)))
        error = error.__cause__ or error.__context__
    return told


@pytest.fixture(autouse=True)
def only_new_objects() -> Iterator[None]:
    """Hide from the garbage collector, and so from ``reprs``, what was made before a test."""
    gc.freeze()
    yield
    gc.unfreeze()


def reprs() -> list[str]:
    """Return the types of all our objects of which the repr tells the secret."""
    objects = [each for each in gc.get_objects() if _is_ours(each)]
    return [type(each).__qualname__ for each in objects if SECRET in repr(each)]


def _is_ours(value: object) -> bool:
    module = str(getattr(type(value), "__module__", ""))
    return module.startswith("flowstate") and not module.startswith("flowstate.test")


@pytest.mark.parametrize("url", POSTGRES + REDIS)
async def test_of_a_url(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = []
    try:
        driver: Driver
        if url in POSTGRES:
            driver = PostgresDriver(url, timeout=0.2)
        else:
            driver = RedisDriver(url, timeout=0.2)
        told += [repr(driver), str(driver)]
        async with Engine(driver, FlowRegistry()):
            pass
    except FlowstateError as error:
        told += [*chain(error), *reprs()]
    assert told
    assert [text for text in told if SECRET in text] == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize("place", ["postgres", "redis"], indirect=True)
async def test_of_a_password_that_is_wrong(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scheme, _, rest = place.where.partition("://")
    user, _, host = rest.rpartition("@")
    url = f"{scheme}://{user.partition(':')[0]}:{SECRET}@{host}"
    with pytest.raises(FlowstateError) as refused:
        await Place(place.kind, url, place.name).driver(timeout=0.5).__aenter__()
    assert [text for text in [*chain(refused.value), *reprs()] if SECRET in text] == []
    assert SECRET not in caplog.text


async def test_of_a_user(any_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Annotations, notes and blobs are shown nowhere, whatever is done, and fails."""
    caplog.set_level(logging.DEBUG)
    flows, told = FlowRegistry(), []

    @flows.flow("fail")
    async def fail(ctx: StateContext, engine: Engine) -> Command[Any]:
        return GetData(ctx, "missing")

    def new(id: str) -> StateContext:
        ctx = StateContext(State(id, labels={"kind": "x"}, annotations={"card": SECRET}))
        ctx.data["file"] = Data(SECRET.encode(), {"name": SECRET})
        return ctx

    async with (
        Engine(any_place.driver(), flows) as engine,
        Delayer(engine, poll_interval=0.05),
        Lease(engine, "a"),
        engine.watch() as states,
    ):
        ctx = new("a")
        commands: list[Command[Any]] = [
            Commit(StoreData(ctx, "file"), Transit(ctx, "fail", {"why": SECRET})),
            Commit(Pause(new("a"))),
            Commit(Transit(new("b"), "unknown", {"why": SECRET})),
            Commit(Pause(StateContext(State("c", annotations={"card": SECRET + "\0"})))),
            Commit(Pause(StateContext(State("c", annotations={"card": 7})))),  # type: ignore[dict-item]
            Commit(Delay(new("d"), "fail", timedelta(), annotations={"why": SECRET})),
            GetData(ctx, "file"),
            Execute(ctx),
        ]
        for command in commands:
            told += [repr(command), str(command)]
            try:
                told.append(repr(await engine.do(command)))
            except FlowstateError as error:
                told += chain(error)
        await engine.idle()
        told += [repr(await anext(states)), repr(engine), repr(states)]
        told += reprs()
        told += [
            text
            for task in asyncio.all_tasks()
            for text in traceback.format_list(traceback.extract_stack(task.get_stack()[-1]))
            if task is not asyncio.current_task()
        ]
    assert [text for text in told if SECRET in text] == []
    assert SECRET not in caplog.text
