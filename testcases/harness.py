"""What a case gets: an engine on the driver under test, a clock, and a record of visits.

No test framework is used here, so that any runner can run the cases.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Self

from msgspec import Struct

from flowstate.clock import Clock, FakeClock, SystemClock
from flowstate.context import StateContext
from flowstate.driver import Driver
from flowstate.engine import Engine
from flowstate.registry import FlowRegistry
from flowstate.state import State, Transition

__all__ = [
    "Capabilities",
    "Case",
    "Damage",
    "Harness",
    "Hooks",
    "MakeDriver",
    "NO_HOOKS",
    "case",
    "check",
    "run",
    "select",
]

TIME_LIMIT = 120.0

MakeDriver = Callable[[Clock], Driver]
"""Makes a driver object on the store under test; called again, another one on the same store."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What the store under test can do; cases that need more are not selected.

    Attributes:
        shared: several driver objects can be open on one store, as from several processes.
        durable: what was committed is still there after the last driver object was closed.
        fake_clock: the store's clock is the one given to ``MakeDriver``.
        any_loop: a driver object may be used by several event loops, each in its own thread.
        fork: the process may fork while a driver object is open.
        damage: :attr:`Hooks.damage` is given.
        standstill: :attr:`Hooks.stand_still` is given.
    """

    shared: bool
    durable: bool
    fake_clock: bool
    any_loop: bool
    fork: bool = False
    damage: bool = False
    standstill: bool = False


Damage = Literal["revision", "newer revision", "delay", "newer delay"]
"""What becomes unreadable: bytes that are no JSON, or a version that no library knows yet."""


class Hooks(Struct, frozen=True, kw_only=True):
    """What a case does to a store without the driver's help.

    Attributes:
        damage: makes the stored form of the latest revision of a state, or of a delay, unreadable.
            It gets an open driver, what to do, and the id of the state or of the delay.
        stand_still: keeps the server of an open driver from doing anything, as SIGSTOP does,
            inside of ``async with``. Connections stay open meanwhile. The driver has to end each
            operation within ten seconds all the same.
    """

    damage: Callable[[Driver, Damage, str], Awaitable[None]] | None = None
    stand_still: Callable[[Driver], AbstractAsyncContextManager[None]] | None = None


NO_HOOKS = Hooks()


class Case:
    """A named behaviour that every driver must show."""

    def __init__(
        self,
        run: Callable[["Harness"], Awaitable[None]],
        needs: tuple[str, ...],
        *,
        real_time: bool,
    ) -> None:
        self.run = run
        self.needs = needs
        self.real_time = real_time
        self.name = run.__name__
        self.guarantees = run.__doc__ or ""

    def __repr__(self) -> str:
        return self.name


def case(*needs: str, real_time: bool = False) -> Callable[[Callable[["Harness"], Any]], Case]:
    """Make a case of an ``async def (harness)``.

    Args:
        needs: names of capabilities.
        real_time: run it on the real clock, because it needs other processes or threads.
    """

    def make(run: Callable[["Harness"], Any]) -> Case:
        return Case(run, needs, real_time=real_time)

    return make


class Harness:
    """The world of one case.

    Attributes:
        capabilities: of the store.
        clock: the one that engine and, if it can, the store use.
        driver: open.
        flows: of ``engine``; empty at first.
        engine: open.
        hooks: of the store.
        visits: what flows noted with :meth:`visit`, in order.
    """

    def __init__(
        self,
        make_driver: MakeDriver,
        capabilities: Capabilities,
        clock: Clock,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.capabilities = capabilities
        self.hooks = hooks
        self.clock = clock
        self.flows = FlowRegistry()
        self.visits: list[str] = []
        self._make_driver = make_driver
        self._visited = asyncio.Event()
        self._exit = contextlib.AsyncExitStack()
        self.driver = make_driver(clock)
        self.engine = self.make_engine(self.driver)

    @property
    def has_fake_clock(self) -> bool:
        """Whether time costs nothing."""
        return isinstance(self.clock, FakeClock)

    async def __aenter__(self) -> Self:
        await self._exit.enter_async_context(self.engine)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._exit.aclose()

    def make_engine(self, driver: Driver | None = None, **options: Any) -> Engine:
        """Return an engine, not open yet, on the same flows."""
        options.setdefault("clock", self.clock)
        options.setdefault("shutdown_timeout", 1.0)
        return Engine(driver or self.driver, self.flows, **options)

    def make_driver(self) -> Driver:
        """Return another driver object, not open yet, on the same store; needs ``shared``."""
        return self._make_driver(self.clock)

    @contextlib.asynccontextmanager
    async def other_driver(self) -> AsyncIterator[Driver]:
        """Open another driver object on the same store; needs ``shared``."""
        async with self._make_driver(self.clock) as driver:
            yield driver

    async def close(self) -> None:
        """Close the engine and the store until :meth:`reopen`; needs ``durable``."""
        await self._exit.aclose()

    async def reopen(self) -> None:
        """Close the engine and the store, and open both again; needs ``durable``."""
        await self.close()
        self.driver = self._make_driver(self.clock)
        self.engine = self.make_engine(self.driver)
        await self._exit.enter_async_context(self.engine)

    async def damage(self, what: Damage, id: str) -> None:
        """Make the latest revision of a state, or a delay, unreadable; needs ``damage``."""
        assert self.hooks.damage is not None, "the capability is there, but not its hook"
        await self.hooks.damage(self.driver, what, id)

    def standing_still(self) -> AbstractAsyncContextManager[None]:
        """Keep the server from doing anything inside of ``async with``; needs ``standstill``."""
        assert self.hooks.stand_still is not None, "the capability is there, but not its hook"
        return self.hooks.stand_still(self.driver)

    def visit(self, what: str) -> None:
        """Note that a flow was here."""
        self.visits.append(what)
        self._visited.set()

    async def until(self, reached: Callable[[list[str]], bool]) -> None:
        """Wait until the visits are as wanted."""
        while not reached(self.visits):
            self._visited.clear()
            await self._visited.wait()

    async def visited(self, *expected: str) -> None:
        """Wait for as many visits as expected, and compare."""
        await self.until(lambda visits: len(visits) >= len(expected))
        check(self.visits, list(expected), "visits")

    def ctx(self, id: str, to: str = "", **state: Any) -> StateContext:
        """Return a new context, in flow ``to`` without a commit."""
        return StateContext(State(id, transition=Transition(to), **state))

    async def log(self) -> list[State]:
        """Return the whole log."""
        return [state async for state in self.engine.states()]


def check(found: object, expected: object, what: str) -> None:
    """Raise ``AssertionError`` unless the two are equal."""
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def select(cases: tuple[Case, ...], capabilities: Capabilities) -> tuple[Case, ...]:
    """Return the cases that a store with these capabilities must pass."""
    return tuple(c for c in cases if all(getattr(capabilities, need) for need in c.needs))


async def run(
    case: Case, make_driver: MakeDriver, capabilities: Capabilities, hooks: Hooks = NO_HOOKS
) -> None:
    """Run one case against an empty store.

    Args:
        case: to be run.
        make_driver: makes driver objects on the store.
        capabilities: of the store.
        hooks: those that the capabilities speak of.

    Raises:
        AssertionError: the guarantee does not hold.
        TimeoutError: the case did not end within two minutes.
    """
    fake = capabilities.fake_clock and not case.real_time
    clock: Clock = FakeClock() if fake else SystemClock()
    before = asyncio.all_tasks()
    async with asyncio.timeout(TIME_LIMIT):
        async with Harness(make_driver, capabilities, clock, hooks) as harness:
            await case.run(harness)
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    check(left, set(), "tasks that were left running")
