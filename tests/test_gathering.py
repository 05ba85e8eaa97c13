"""Questions that are asked at the same time share a call, and never one that had begun before."""

import asyncio
from collections.abc import Sequence

import pytest

from flowstate.gathering import Gathering

LIMIT = 3


class Store:
    """Answers when it is told to, with the question; raises what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[list[object]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def answers(self, questions: Sequence[object]) -> Sequence[object]:
        self.calls.append(list(questions))
        await self.go_on.wait()
        for question in questions:
            if isinstance(question, Exception):
                raise question
        return list(questions)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def gathering(store: Store) -> Gathering[object, object]:
    return Gathering(store.answers, str, LIMIT)


async def test_what_is_asked_at_once_shares_a_call_up_to_its_limit(
    store: Store, gathering: Gathering[object, object]
) -> None:
    assert await asyncio.gather(*map(gathering.ask, "abcd")) == list("abcd")
    assert store.calls == [["a", "b", "c"], ["d"]]


async def test_no_answer_is_older_than_its_question(
    store: Store, gathering: Gathering[object, object]
) -> None:
    store.go_on.clear()
    first = asyncio.create_task(gathering.ask("a"))
    while not store.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)  # reason: the call has to begin
    later = [asyncio.create_task(gathering.ask(each)) for each in "ab"]
    store.go_on.set()
    await asyncio.gather(first, *later)

    assert store.calls == [["a"], ["a", "b"]]


async def test_equal_keys_have_a_call_each(
    store: Store, gathering: Gathering[object, object]
) -> None:
    await asyncio.gather(*map(gathering.ask, "aab"))

    assert store.calls == [["a", "b"], ["a"]]


async def test_an_error_is_told_only_to_whoever_asked_for_it(
    store: Store, gathering: Gathering[object, object]
) -> None:
    error = ValueError("bad")
    outcomes = await asyncio.gather(*map(gathering.ask, ["a", error]), return_exceptions=True)

    assert outcomes == ["a", error]


async def test_whoever_is_cancelled_is_not_asked_for(
    store: Store, gathering: Gathering[object, object]
) -> None:
    tasks = [asyncio.create_task(gathering.ask(each)) for each in "ab"]
    await asyncio.sleep(0)  # reason: they have to ask
    tasks[0].cancel()
    await asyncio.wait(tasks)

    assert tasks[0].cancelled()
    assert tasks[1].result() == "b"


async def test_closing_tells_whoever_waits_why(
    store: Store, gathering: Gathering[object, object]
) -> None:
    store.go_on.clear()
    tasks = [asyncio.create_task(gathering.ask(each)) for each in "abcd"]
    while not store.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)  # reason: the call has to begin
    await gathering.close(ValueError("closed"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [str(outcome) for outcome in outcomes] == ["closed"] * 4


async def test_whoever_asks_just_before_the_end_or_after_it_is_told(
    gathering: Gathering[object, object],
) -> None:
    asking = asyncio.create_task(gathering.ask("a"))
    await asyncio.sleep(0)  # reason: it has asked, and the call has not begun
    await gathering.close(ValueError("closed"))
    for each in (asking, gathering.ask("b")):
        with pytest.raises(ValueError, match="closed"):
            async with asyncio.timeout(5.0):
                await each
