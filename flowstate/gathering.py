"""Questions that are asked at the same time share one call; each gets its own answer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from flowstate.cancellation import all_cancelled

__all__ = ["Gathering"]

T = TypeVar("T")
R = TypeVar("R")
Asked = tuple[T, asyncio.Future[R]]


class Gathering(Generic[T, R]):
    """Makes one call at a time; what is asked meanwhile shares the next one.

    Args:
        call: answers many questions, in their order.
        key: of a question; no call has two of the same key.
        limit: how many questions a call takes.
    """

    def __init__(
        self,
        call: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        key: Callable[[T], Hashable],
        limit: int,
    ) -> None:
        self._call = call
        self._key = key
        self._limit = limit
        self._waiting: deque[Asked[T, R]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._reason: Exception | None = None

    async def ask(self, question: T) -> R:
        """Return the answer of a call that begins after this; raise what the call raises."""
        if self._reason is not None:
            raise self._reason
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="flowstate gathering")
        return await answer

    async def close(self, reason: Exception) -> None:
        """Raise ``reason`` for whoever still waits for an answer."""
        self._reason = reason
        if self._task is not None:
            await all_cancelled(self._task)
        self._end([])  # A task that is cancelled before its first turn does not do that itself.

    async def _run(self) -> None:
        asked: list[Asked[T, R]] = []
        try:
            while self._waiting:
                asked = self._next()
                if asked:
                    await self._answer(asked)
        finally:
            self._end(asked)

    def _end(self, asked: Sequence[Asked[T, R]]) -> None:
        self._task = None
        for _, answer in (*asked, *self._waiting):
            _hand_over(answer, self._reason)
        self._waiting.clear()

    def _next(self) -> list[Asked[T, R]]:
        """Take what the next call answers, and leave out whoever no longer waits."""
        taken: dict[Hashable, Asked[T, R]] = {}
        left: deque[Asked[T, R]] = deque()
        for question, answer in self._waiting:
            key = self._key(question)
            if key in taken or len(taken) == self._limit:
                left.append((question, answer))
            elif not answer.done():
                taken[key] = (question, answer)
        self._waiting = left
        return list(taken.values())

    async def _answer(self, asked: Sequence[Asked[T, R]]) -> None:
        try:
            answers = await self._call([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            if len(asked) == 1:
                _hand_over(asked[0][1], error)
                return
            # One that makes the whole call fail must not take the others with it.
            await asyncio.gather(*(self._answer([one]) for one in asked))
        else:
            for (_, answer), found in zip(asked, answers, strict=True):
                if not answer.done():
                    answer.set_result(found)


def _hand_over(answer: "asyncio.Future[R]", error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.cancel()
    else:
        answer.set_exception(error)
