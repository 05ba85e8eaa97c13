"""Documents in the store: stored once, never changed, found by name and version."""

import asyncio

import pytest

from flowstate import FakeClock, InvalidCommandError, State, StateNotFoundError, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.tasks.errors import DocumentError, TaskError
from flowstate.engines.tasks.service import definitions
from flowstate.engines.tasks.service.definitions import precedence
from flowstate.engines.tasks.service.following import follow
from tests.engines.tasks.service.running import document, tasks_on

LONG = "- sleep: {wait: {hours: 1}}"
# The order that the specification of semantic versions gives as its example, and a few more.
ORDER = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.9.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_are_ordered_as_semantic_versions_are() -> None:
    backwards = ORDER[::-1]
    assert sorted(backwards, key=precedence) == ORDER
    assert precedence("1.0.0+build.7") == precedence("1.0.0")


async def test_a_document_is_stored_once() -> None:
    async with tasks_on() as tasks:
        text = document()
        added, is_new = await tasks.add(text)
        again = await tasks.add(text)
        with_comment = await tasks.add(f"# What it is for.\n{text}")

        assert (added.key, is_new) == ("demo/order:1.0.0", True)
        assert again[1] is with_comment[1] is False
        assert [each.key for each in tasks.definitions] == ["demo/order:1.0.0"]
        assert await tasks.definitions.text("demo/order:1.0.0") == text


async def test_another_content_needs_another_version() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document())

        with pytest.raises(InvalidCommandError, match="another content; raise the version"):
            await tasks.add(document(LONG))
        assert (await tasks.add(document(LONG, version="1.0.1")))[1]


async def test_a_wrong_document_is_not_stored() -> None:
    async with tasks_on() as tasks:
        with pytest.raises(DocumentError, match=r"order\.yaml:"):
            await tasks.add("document: [", file="order.yaml")
        assert [*tasks.definitions] == []


async def test_of_many_versions_the_newest_is_started() -> None:
    async with tasks_on() as tasks:
        for version in ("1.9.0", "1.10.0", "2.0.0-rc.1"):
            await tasks.add(document(version=version))

        found = [
            (await tasks.definitions.find(*asked)).version
            for asked in (("demo/order",), ("demo/order:1.9.0",), ("demo/order", "1.10.0"))
        ]
        assert found == ["2.0.0-rc.1", "1.9.0", "1.10.0"]
        with pytest.raises(StateNotFoundError, match=r"'demo/order:3\.0\.0'"):
            await tasks.definitions.find("demo/order:3.0.0")
        with pytest.raises(StateNotFoundError, match="'default/order'"):
            await tasks.definitions.find("order")


async def test_another_process_sees_what_is_added_and_removed() -> None:
    driver, clock = MemoryDriver(FakeClock()), None
    async with tasks_on(driver, clock=clock) as one, tasks_on(driver, clock=clock) as other:
        await one.add(document())
        assert (await other.definitions.find("demo/order")).version == "1.0.0"  # At once.
        await one.add(document(version="1.1.0"))
        while len([*other.definitions]) < 2:  # noqa: ASYNC110 - the watch of the other one
            await asyncio.sleep(0.001)
        await one.remove("demo/order", "1.1.0")
        while len([*other.definitions]) > 1:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)


async def test_many_add_one_version_and_one_of_them_stores_it() -> None:
    driver = MemoryDriver()
    async with tasks_on(driver) as one, tasks_on(driver) as other:
        added = await asyncio.gather(*(each.add(document()) for each in (one, other) * 10))

        assert sum(is_new for _, is_new in added) == 1


async def test_what_is_in_use_is_not_removed() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(LONG))
        id = await tasks.start("demo/order")

        with pytest.raises(InvalidCommandError, match="1 instances of it have not ended"):
            await tasks.remove("demo/order", "1.0.0")
        await tasks.cancel(id, hard=True)
        await tasks.engine.wait_for(id, status=Status.ENDED)
        await tasks.remove("demo/order", "1.0.0")

        assert [*tasks.definitions] == []
        with pytest.raises(StateNotFoundError):
            await tasks.start("demo/order")
        with pytest.raises(InvalidCommandError, match="was removed; raise the version"):
            await tasks.add(document(LONG))


async def test_an_instance_that_was_started_while_its_document_was_removed_goes_on() -> None:
    driver = MemoryDriver()
    async with tasks_on(driver) as one:
        await one.add(document())
        found = await one.definitions.find("demo/order")
        await one.remove("demo/order", "1.0.0")
    async with tasks_on(driver) as other:
        assert (await other.definitions.load(found.key)).key == found.key


async def test_only_some_documents_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "MOST_KEPT", 3)
    async with tasks_on() as tasks:
        keys = [(await tasks.add(document(name=f"n{i}")))[0].key for i in range(5)]

        kept = [key for key in keys if tasks.definitions.get(key) is not None]
        assert kept == keys[2:]
        assert await tasks.result(await tasks.start("demo/n0")) == {"done": True}


async def test_a_document_that_is_not_there_is_an_error_of_the_configuration() -> None:
    async with tasks_on() as tasks:
        with pytest.raises(TaskError, match=r"configuration 400.*there is no document 'a/b:1'"):
            await tasks.definitions.load("a/b:1")


@pytest.mark.parametrize(
    "labels",
    [
        {"tasks": "document"},
        {"document": "demo/order"},
        {"tasks": "document", "document": "demo/order", "document_version": "9.0.0"},
    ],
    ids=str,
)
async def test_labels_of_an_instance_do_not_make_it_a_document(labels: dict[str, str]) -> None:
    driver = MemoryDriver()
    async with tasks_on(driver) as tasks:
        await tasks.add(document())
        await tasks.result(await tasks.start("demo/order", labels=labels))
    async with tasks_on(driver) as tasks:
        with pytest.raises(StateNotFoundError):
            await tasks.definitions.find("demo/order", "9.0.0")
        assert [each.version for each in tasks.definitions] == ["1.0.0"]


async def test_a_revision_that_cannot_be_followed_hides_no_other() -> None:
    async with tasks_on() as tasks:
        seen: list[str] = []

        def see(state: State) -> None:
            seen.append(state.id)
            if len(seen) == 1:
                raise KeyError

        labels = {"tasks": "document"}
        following = asyncio.create_task(follow(tasks.engine, labels, tasks.engine.head, see))
        await asyncio.sleep(0)
        for name in ("a", "b"):
            await tasks.add(document(name=name))
        async with asyncio.timeout(10):
            while len(seen) < 2:  # noqa: ASYNC110 - in the background
                await asyncio.sleep(0.001)
        following.cancel()
        await asyncio.wait([following])
    assert seen == ["tasks.document.demo/a:1.0.0", "tasks.document.demo/b:1.0.0"]
