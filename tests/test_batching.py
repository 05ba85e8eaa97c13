"""What arrives while a call is going on shares the next one; each item has its own answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from flowstate import CommitUnknownError, DriverError, StoreUnavailableError
from flowstate.ground.batching import Batcher

LIMIT = 3


class Store:
    """Answers with the items, when it may; raises the first item that is an error."""

    def __init__(self) -> None:
        self.calls: list[list[object]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.was_cancelled = False

    async def answers(self, items: Sequence[object]) -> Sequence[object]:
        self.calls.append(list(items))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        for item in items:
            if isinstance(item, Exception):
                raise item
        return list(items)

    async def is_called(self, times: int = 1) -> None:
        while len(self.calls) < times:  # noqa: ASYNC110
            await asyncio.sleep(0)  # reason: the call has to begin


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def batcher(store: Store) -> AsyncIterator[Batcher[object, object]]:
    made = Batcher(store.answers, limit=LIMIT, key=str)
    yield made
    await made.close(ValueError("the test is over"))


async def test_items_of_the_same_moment_share_a_call_up_to_its_limit(
    store: Store, batcher: Batcher[object, object]
) -> None:
    assert await asyncio.gather(*map(batcher.submit, "abcd")) == list("abcd")
    assert store.calls == [["a", "b", "c"], ["d"]]


async def test_no_answer_is_older_than_its_item(
    store: Store, batcher: Batcher[object, object]
) -> None:
    store.go_on.clear()
    first = asyncio.create_task(batcher.submit("a"))
    await store.is_called()
    later = [asyncio.create_task(batcher.submit(each)) for each in "ab"]
    store.go_on.set()
    await asyncio.gather(first, *later)

    assert store.calls == [["a"], ["a", "b"]]


async def test_equal_keys_have_a_call_each(store: Store, batcher: Batcher[object, object]) -> None:
    await asyncio.gather(*map(batcher.submit, "aabab"))

    assert store.calls == [["a", "b"], ["a", "b"], ["a"]]


async def test_a_call_has_at_most_so_many_bytes_unless_a_single_item_has_more(store: Store) -> None:
    batcher = Batcher(store.answers, limit=10, max_bytes=4, size=lambda item: len(str(item)))
    await asyncio.gather(*map(batcher.submit, ["aa", "bb", "c", "dddddd", "e", "fff"]))

    assert store.calls == [["aa", "bb"], ["c"], ["dddddd"], ["e", "fff"]]


async def test_an_error_reaches_all_of_the_call_and_nothing_is_asked_again(
    store: Store, batcher: Batcher[object, object]
) -> None:
    error = ValueError("bad")
    outcomes = await asyncio.gather(*map(batcher.submit, ["a", error]), return_exceptions=True)

    assert outcomes == [error, error]
    assert len(store.calls) == 1
    assert await batcher.submit("b") == "b"


async def test_an_item_that_is_cancelled_in_time_is_given_to_no_call(
    store: Store, batcher: Batcher[object, object]
) -> None:
    tasks = [asyncio.create_task(batcher.submit(each)) for each in "abc"]
    await asyncio.sleep(0)  # reason: they have to be queued
    tasks[0].cancel()
    await asyncio.wait(tasks)

    assert tasks[0].cancelled()
    assert store.calls == [["b", "c"]]


async def test_cancelling_many_takes_time_linear_in_their_number(
    store: Store, batcher: Batcher[object, object]
) -> None:
    store.go_on.clear()
    first = asyncio.create_task(batcher.submit("a"))
    await store.is_called()
    tasks = [asyncio.create_task(batcher.submit(each)) for each in range(16_000)]
    await asyncio.sleep(0)  # reason: they have to be queued
    began = time.process_time()
    for task in tasks[:-1]:
        task.cancel()
    await asyncio.wait(tasks[:-1])
    used = time.process_time() - began
    store.go_on.set()

    assert await tasks[-1] == 15_999
    assert await first == "a"
    assert store.calls == [["a"], [15_999]]
    assert used < 2.0  # Seconds; quadratic, it was ten times as long.


async def test_closing_tells_all_why(store: Store, batcher: Batcher[object, object]) -> None:
    store.go_on.clear()
    tasks = [asyncio.create_task(batcher.submit(each)) for each in "abcd"]
    await store.is_called()
    await batcher.close(ValueError("closed"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DriverError] * 3 + [ValueError]
    assert store.was_cancelled
    with pytest.raises(ValueError, match="closed"):
        await batcher.submit("e")


async def test_closing_before_the_call_has_begun_tells_all_why(
    store: Store, batcher: Batcher[object, object]
) -> None:
    task = asyncio.create_task(batcher.submit("a"))
    await asyncio.sleep(0)  # reason: it has to be queued
    await batcher.close(ValueError("closed"))

    with pytest.raises(ValueError, match="closed"):
        await task
    assert store.calls == []


async def test_a_call_that_is_cancelled_from_outside_leaves_no_one_waiting(
    store: Store, batcher: Batcher[object, object]
) -> None:
    store.go_on.clear()
    tasks = [asyncio.create_task(batcher.submit(each)) for each in "abcd"]
    await store.is_called()
    (call,) = asyncio.all_tasks() - {asyncio.current_task(), *tasks}
    call.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DriverError] * 4
    store.go_on.set()
    assert await batcher.submit("e") == "e"


async def test_closing_waits_no_longer_than_it_may(
    store: Store, batcher: Batcher[object, object]
) -> None:
    store.go_on.clear()
    task = asyncio.create_task(batcher.submit("a"))
    await store.is_called()
    assert not await batcher.close(ValueError("closed"), 0.01)
    with pytest.raises(DriverError):
        await task


async def test_closing_takes_no_more_and_waits_for_what_is_there(
    store: Store, batcher: Batcher[object, object]
) -> None:
    store.go_on.clear()
    task = asyncio.create_task(batcher.submit("a"))
    await store.is_called()
    closing = asyncio.create_task(batcher.close(ValueError("closed"), 10.0))
    await asyncio.sleep(0)  # reason: it has begun
    with pytest.raises(ValueError, match="closed"):
        await batcher.submit("b")
    store.go_on.set()
    assert await closing
    assert await task == "a"


async def test_what_follows_a_call_spoils_no_answer(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(answers: Sequence[object]) -> None:
        raise ZeroDivisionError(answers)

    batcher = Batcher(store.answers, limit=LIMIT, after=fail)
    assert await asyncio.gather(*map(batcher.submit, "abcd")) == list("abcd")
    assert len(caplog.records) == 2


class Unreachable(Store):
    """Fails with an error for each item, once it may."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = errors

    async def answers(self, items: Sequence[object]) -> Sequence[object]:
        await super().answers(items)
        raise self.errors[len(self.calls) - 1]


async def waiting_behind(store: Store) -> list[object]:
    """Submit one item, and others while its call is going on; return what all of them get."""
    batcher: Batcher[object, object] = Batcher(store.answers, limit=LIMIT)
    store.go_on.clear()
    first = asyncio.ensure_future(batcher.submit("first"))
    await store.is_called()
    others = [asyncio.ensure_future(batcher.submit(number)) for number in range(5)]
    await asyncio.sleep(0)  # reason: they have to get into the queue
    store.go_on.set()
    found = await asyncio.gather(first, *others, return_exceptions=True)
    await batcher.close(ValueError("the test is over"))
    return list(found)


async def test_those_who_waited_behind_a_store_that_cannot_be_reached_wait_no_longer() -> None:
    store = Unreachable(StoreUnavailableError("away"))
    found = await waiting_behind(store)
    assert len(store.calls) == 1
    assert {type(each) for each in found} == {StoreUnavailableError}
    assert {str(each) for each in found[1:]} == {
        "flowstate batch: the store could not be reached, and this was not sent"
    }


async def test_those_who_waited_behind_another_failure_have_their_turn() -> None:
    unknown = CommitUnknownError("token")  # Of a store that can be reached, say.
    store = Unreachable(*[DriverError("broken"), unknown, ValueError("odd")])
    found = await waiting_behind(store)
    assert [type(each) for each in found] == [
        DriverError,
        *[CommitUnknownError] * 3,
        *[ValueError] * 2,
    ]
