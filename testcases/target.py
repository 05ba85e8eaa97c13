"""What a user names to be certified: something that makes drivers, one way or another."""

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowstate.clock import Clock, SystemClock
from flowstate.driver import Driver, StateQuery
from flowstate.testcases.harness import NO_HOOKS, Capabilities, Hooks, MakeDriver

__all__ = ["Target", "load_target"]

Make = Callable[..., Any]


class Target:
    """Makes stores, each one empty, on which driver objects can be opened.

    Args:
        make: returns what makes driver objects on a new store, or an awaitable of that.
        capabilities: of the stores.
        hooks: those that the capabilities speak of.

    Attributes:
        capabilities: as given.
        hooks: as given.
    """

    def __init__(self, make: Make, capabilities: Capabilities, hooks: Hooks = NO_HOOKS) -> None:
        self._make = make
        self.capabilities = capabilities
        self.hooks = hooks

    async def store(self) -> MakeDriver:
        """Make a store."""
        made = self._make()
        make_driver: MakeDriver = await made if isinstance(made, Awaitable) else made
        return make_driver

    def store_now(self) -> MakeDriver:
        """Make a store from within an event loop, which waits."""
        made = self._make()
        if not isinstance(made, Awaitable):
            make_driver: MakeDriver = made
            return make_driver
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, _awaited(made)).result()


def load_target(name: str) -> Target:
    """Return what ``package.module:name`` stands for.

    It is one of these, and is called to find out which:

    - a function that makes an empty store, and returns a function that takes a clock and returns
      a driver object on that store; its module has ``CAPABILITIES`` as well, and perhaps
      ``HOOKS``;
    - a function that returns a driver on a store of its own, or a class of drivers. It may take
      a clock. Without ``CAPABILITIES`` in its module the store counts as one that can do
      nothing special, apart from using the clock if it takes one.

    Raises:
        ValueError: it is none of them.
    """
    module, make = _found(name)
    capabilities = getattr(module, "CAPABILITIES", None)
    if not (capabilities is None or isinstance(capabilities, Capabilities)):
        raise ValueError(f"{module.__name__!r} needs CAPABILITIES = Capabilities(...)")
    takes_clock, call = _called(name, make)
    made = _tried(name, call)
    if _is_driver(made) and not inspect.iscoroutinefunction(make):
        return _single(name, call, takes_clock, capabilities, _hooks(module))
    if takes_clock or not callable(made):
        raise ValueError(f"{name} returned {made!r}, no driver and no function that makes drivers")
    if capabilities is None:
        raise ValueError(f"{module.__name__!r} needs CAPABILITIES = Capabilities(...)")
    return Target(make, capabilities, _hooks(module))


def _hooks(module: Any) -> Hooks:
    hooks = getattr(module, "HOOKS", NO_HOOKS)
    if not isinstance(hooks, Hooks):
        raise ValueError(f"{module.__name__!r}: HOOKS must be Hooks(...)")  # noqa: TRY004
    return hooks


def _found(name: str) -> tuple[Any, Make]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{name!r} is not of the form package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from error
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ValueError(f"{module_name!r} has no function {attribute!r}")  # noqa: TRY004
    return module, make


def _called(name: str, make: Make) -> tuple[bool, Callable[[Clock], Any]]:
    """Return whether something takes a clock, and how to call it."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # As of some that are not written in Python.
        return False, lambda _: make()
    needed = [
        each
        for each in parameters.values()
        if each.default is each.empty
        and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD, each.KEYWORD_ONLY}
    ]
    if len(needed) > 1:
        raise ValueError(f"{name} takes more than a clock: {inspect.signature(make)}")
    if needed:
        return True, make
    if "clock" in parameters:
        return True, lambda clock: make(clock=clock)
    return False, lambda _: make()


def _tried(name: str, call: Callable[[Clock], Any]) -> object:
    """Return what a call returns."""

    async def tried() -> object:
        made = call(SystemClock())
        return await made if isinstance(made, Awaitable) else made

    try:
        return asyncio.run(tried())
    except Exception as error:
        raise ValueError(f"{name} fails: {type(error).__name__}: {error}") from error


def _single(
    name: str,
    call: Callable[[Clock], Any],
    takes_clock: bool,
    capabilities: Capabilities | None,
    hooks: Hooks,
) -> Target:
    """Return a target whose every call makes another store."""
    given = capabilities or Capabilities(
        shared=False, durable=False, fake_clock=takes_clock, any_loop=False
    )
    hint = "return a function that makes driver objects on an empty store instead of a driver"
    if given.shared or given.durable:
        raise ValueError(f"{name} makes one driver object for each store: {hint}")
    try:
        apart = asyncio.run(_are_apart(call(SystemClock()), call(SystemClock())))
    except Exception as error:
        raise ValueError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not apart:
        raise ValueError(f"{name} makes drivers on one store, or one that is not empty: {hint}")
    return Target(lambda: call, given, hooks)


async def _are_apart(one: Driver, other: Driver) -> bool:
    """Return whether two drivers are on two stores, both empty."""
    async with one, other:
        heads = [(await each.get_states(StateQuery(limit=1))).head for each in (one, other)]
        return one.store_id != other.store_id and heads == [0, 0]


def _is_driver(made: object) -> bool:
    return not isinstance(made, type) and hasattr(made, "commit") and hasattr(made, "get_states")


async def _awaited(made: Awaitable[MakeDriver]) -> MakeDriver:
    return await made
