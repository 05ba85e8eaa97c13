"""Generated workflows as plain Python runs them, with marks that do things at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from flowstate.engines.workflow import Cancelled, ChildFailed, StepFailed, Timeout
from tests.engines.compiler.world import loaded
from tests.engines.generated.outside import NAMES, POLICY, Shared, Source, calls, given, never

__all__ = ["Ended", "TooLongError", "plainly"]

MOST_STOPS = 60
WAIT, SLEEP = 1, 2  # Of a race, what gives a value at once comes before what waits.


class TooLongError(Exception):
    """A program has passed more stops than any that is compared."""


class InVainError(Exception):
    """What is waited for never comes."""


@attrs.frozen
class Ended:
    """How a workflow has ended, as what is compared.

    Attributes:
        outcome: ``done``, ``cancelled`` or ``failed``.
        result: what it has returned.
        data: at the end.
        undone: what compensations were given, in their order.
    """

    outcome: str
    result: Any
    data: Shared
    undone: list[int]


class Doing:
    """What a mark does, when it is awaited."""

    def __init__(self, do: Callable[[], Awaitable[Any]], slow: int = 0) -> None:
        self.do = do
        self.slow = slow

    def __await__(self) -> Generator[Any, None, Any]:
        return self.do().__await__()


class Plain:
    """The marks; each is called as the mark of its name."""

    def __init__(self, source: Source, data: Shared) -> None:
        self._source, self._data, self._mail = source, data, [*source.messages]
        self._stops = 0
        self.undone: list[int] = []

    def _stop(self, name: str) -> None:
        self._stops += 1
        if self._stops > MOST_STOPS:
            raise TooLongError
        if name.startswith("c"):
            raise Cancelled

    def step(self, call: Any, *args: Any, name: str = "", timeout: float = 0.0, **_: bool) -> Doing:
        async def do() -> Any:
            self._stop(name)
            if timeout:
                raise StepFailed(name, POLICY.attempts, "")
            try:
                return given(self._source.seed, call, args)
            except Exception as error:  # noqa: BLE001 - it is compared
                failed = StepFailed(name or call.__name__, 1, f"{type(error).__name__}: {error}")
                failed.__cause__ = error
            raise failed

        return Doing(do)

    def sub(self, code: Any, *args: Any, name: str = "") -> Doing:
        async def do() -> Any:
            self._stop(name)
            return await code(self._data, *args)

        return Doing(do)

    def wait(self, *sources: Any, name: str = "", timeout: float | None = None) -> Doing:
        async def do() -> Any:
            self._stop(name)
            classes = tuple(each for each in sources if isinstance(each, type))
            for message in self._mail:
                if isinstance(message, classes):
                    self._mail.remove(message)
                    return message
            if timeout is not None:
                raise TimeoutError
            if not any(isinstance(each, Timeout) for each in sources):
                raise InVainError
            return Timeout()

        return Doing(do, WAIT)

    def sleep(self, _time: float, *, name: str = "") -> Doing:
        async def do() -> None:
            self._stop(name)

        return Doing(do, SLEEP)

    def until(self, condition: Any, *, name: str = "") -> Doing:
        async def do() -> None:
            self._stop(name)
            if condition is never:
                raise InVainError

        return Doing(do, WAIT)

    def go(self, code: Any, *args: Any, name: str = "") -> None:
        self._stop(name)
        try:
            code(self._data, *args).send(None)
        except StopIteration:
            return
        raise AssertionError("a mark has suspended")

    def each(self, part: Any, items: Any, *, name: str = "", **_: int) -> Doing:
        async def do() -> list[Any]:
            self._stop(name)
            try:
                return [await part(item) for item in items]
            except StepFailed as error:
                failed = ChildFailed("a child", str(error))
            raise failed

        return Doing(do)

    def all_of(self, *branches: Doing, name: str = "") -> Doing:
        async def do() -> tuple[Any, ...]:
            self._stop(name)
            found = [await _tried(each) for each in branches]
            for each in found:
                if isinstance(each, Exception):
                    raise each
            return tuple(found)

        return Doing(do)

    def first(self, count: int, *branches: Doing, name: str = "") -> Doing:
        async def do() -> tuple[Any, ...]:
            self._stop(name)
            gave: list[Any] = []
            for each in sorted(branches, key=lambda branch: branch.slow):
                found = None if len(gave) == count else await _tried(each)
                if len(gave) < count and not isinstance(found, Exception):
                    gave.append(found)
            return tuple(gave)

        return Doing(do)

    def lock(self, *_: Any, name: str = "", **__: Any) -> AbstractAsyncContextManager[None]:
        self._stop(name)
        return _nothing()

    rate_limit = lock

    @contextlib.asynccontextmanager
    async def compensating(self, *, name: str = "") -> AsyncIterator[Any]:
        self._stop(name)
        calls: list[int] = []
        try:
            yield lambda _, n: calls.append(n)
        except BaseException:
            self.undone += reversed(calls)
            raise

    def Manager(self, enter: Any, leave: Any) -> Any:  # noqa: N802 - the name of the real one
        @contextlib.asynccontextmanager
        async def manage(*args: Any, name: str = "") -> AsyncIterator[Any]:
            self._stop(name)
            held = await enter(self._data, *args)
            try:
                yield held
            except BaseException:
                await leave(self._data, held, failed=True)
                raise
            await leave(self._data, held, failed=False)

        return manage

    def any_of(self, *branches: Doing, name: str = "") -> Doing:
        async def do() -> Any:
            if not branches:
                raise ValueError("any_of(...) has no branch that could give a value")
            found = await self.first(1, *branches, name=name)
            return found[0]

        return Doing(do)


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


async def _tried(branch: Doing) -> Any:
    try:
        return await branch
    except TooLongError:
        raise
    except Exception as error:  # noqa: BLE001 - it is compared
        return error


def plainly(source: Source) -> Ended:
    """Run a workflow as Python does.

    Raises:
        TooLongError: it passes more stops than any that is compared.
    """
    data = Shared([1, 2, 3], n=source.seed % 2, log=[])
    plain = Plain(source, data)
    names = {
        name: getattr(plain, name)
        for name in vars(Plain)
        if not name.startswith("_") and name != "undone"
    }
    names |= {**NAMES, **calls(), "ADDED": sum(source.adds)}
    names |= {"helper": _same, "workflow": lambda *_, **__: _same}
    whole = loaded(source.text, "<plain>", names)["whole"]
    try:
        result = asyncio.run(whole(data))
        data.added = sum(source.adds)  # It waits for them.
        return Ended("done", result, data, plain.undone)
    except Cancelled:
        return Ended("cancelled", None, data, plain.undone)


def _same(code: Any = None, **_: Any) -> Any:
    return code or _same
