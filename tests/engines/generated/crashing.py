"""Generated workflows on an engine whose process dies, beside plain Python."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from random import Random
from typing import Any

import attrs
from msgspec.structs import replace

from flowstate import InvalidCommandError, State
from flowstate.engines.workflow import (
    CompileError,
    Manager,
    Workflows,
    compensating,
    effect_key,
    helper,
    lock,
    marks,
    rate_limit,
    workflow,
)
from flowstate.testing import Exploration, Outcome, explore_workflow
from tests.engines.compiler.world import loaded
from tests.engines.generated.outside import NAMES, Acts, Note, Paid, Shared, Source, calls, given
from tests.engines.generated.plainly import Ended, TooLongError, plainly
from tests.engines.generated.writer import written

__all__ = ["Compared", "compare", "source_of"]

IDLE = re.compile(r"c(\d|idle)")  # Stops at which the cancel comes.
LONGEST = timedelta(days=1_000)
MANAGERS = {"compensating": compensating, "lock": lock, "rate_limit": rate_limit}
# What depends on time; data and places are compared with plain Python as far as they do not.
TIMED = ("answers", "data", "error", "notes", "outcome", "result", "stop", "threads")
MARKS = ("all_of", "any_of", "each", "first", "go", "sleep", "step", "sub", "until", "wait")


@attrs.define
class Service:
    """Acts; outlives the processes.

    Attributes:
        seed: of what it gives.
        acts: what was done for each key.
        failures: how often each key has failed.
        wrong: what no service may see.
    """

    seed: int
    acts: dict[str, str] = attrs.Factory(dict)
    failures: dict[str, int] = attrs.Factory(dict)
    wrong: list[str] = attrs.Factory(list)

    def act(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Do what a step does, which may fail for a while, or for good."""
        key, what = effect_key(), f"{call.__name__}{args}"
        if self.acts.setdefault(key, what) != what:
            self.wrong.append(f"{key} was {self.acts[key]}, and is {what}")
        gives = given(self.seed, call, args)
        failed, rng = self.failures.get(key, 0), Random(f"{self.seed} {key}")
        if failed < rng.choice([0, 0, 0, 0, 1, 2]):
            self.failures[key] = failed + 1
            raise ConnectionError(key)
        return gives


@attrs.frozen
class Compared:
    """A workflow that has ended alike in all its runs.

    Attributes:
        outcome: how it has ended.
        explored: its runs.
    """

    outcome: str
    explored: Exploration


service = Service(0)


def suspending(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that gives others their turn before it acts."""

    @wraps(call)
    async def act(*args: Any) -> Any:
        for _ in range(Random(str(args)).randrange(4)):
            await asyncio.sleep(0)
        return service.act(call, args)

    return act


def blocking(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that runs in a worker thread."""

    @wraps(call)
    def act(*args: Any) -> Any:
        return service.act(call, args)

    return act


def source_of(seed: int) -> Source:
    """Return a workflow, and what its clients do."""
    rng, text = Random(f"client {seed}"), written(seed)
    kinds = [kind for kind in (Paid, Note) if kind.__name__ in text]
    messages = [rng.choice(kinds)(n) for n in range(rng.choice([0, 1, 2, 5]))] if kinds else []
    return Source(seed, text, messages, rng.sample(range(1, 9), rng.choice([0, 0, 1, 2])))


def whole_of(source: Source) -> Any:
    """Compile a workflow."""
    steps = {name: suspending(call) for name, call in calls().items()}
    steps["maybe"] = blocking(calls()["maybe"])
    names = {**NAMES, **steps, **{name: getattr(marks, name) for name in MARKS}}
    names |= {
        **MANAGERS,
        "Manager": Manager,
        "helper": helper,
        "workflow": workflow,
        "ADDED": sum(source.adds),
    }
    whole = loaded(source.text, "<whole>", names)["whole"]
    whole.update(add)
    return whole


def add(s: Shared, n: int) -> int:
    s.added += n
    return s.added


def client(source: Source) -> Callable[[Workflows], Any]:
    """Return what sends, updates and cancels; all of it may be done again."""

    async def use(workflows: Workflows) -> None:
        with contextlib.suppress(InvalidCommandError):  # It has ended before.
            for number, message in enumerate(source.messages):
                await workflows.send("it", message, key=f"m{number}")
            for n in source.adds:
                await workflows.update("it", "add", n, key=f"u{n}")
        if is_open(await workflows.engine.wait_for("it", until=is_idle)):
            await workflows.cancel("it")

    return use


def is_open(state: State) -> bool:
    return "outcome" not in state.labels


def is_idle(state: State) -> bool:
    return bool(IDLE.match(state.labels.get("stop", ""))) or not is_open(state)


def ended(state: State) -> Ended:
    outcome = state.labels["outcome"]
    result = state.get(str, "result") if outcome == "done" else None
    return Ended(outcome, result, state.get(Shared, "data"), [*Acts.undone.values()])


def comparable(end: Ended) -> Ended:
    """Leave aside what depends on time: what threads and updates have done until a cancel."""
    if not end.data.told:
        return end
    return attrs.evolve(end, data=replace(end.data, joined=0, sum=0, added=0))


def compare(seed: int, *, runs: int = 2) -> Compared | None:
    """Compare a workflow whose processes die with plain Python; ``None`` if it is too long or deep.

    Args:
        seed: of the workflow.
        runs: with crashes; half of them have two.
    """
    source = source_of(seed)
    try:
        expected = comparable(plainly(source))
    except TooLongError:
        return None

    def make_service() -> Service:
        global service  # noqa: PLW0603 - the steps name it
        service = Service(seed)
        Acts.undone.clear()
        return service

    def as_plain(outcome: Outcome[Service]) -> None:
        found = comparable(ended(outcome.states["it"]))
        assert found == expected, f"{found}\n!=\n{expected}\n{source.text}"

    def one_act_for_each_key(outcome: Outcome[Service]) -> None:
        assert outcome.world.wrong == []

    whole = whole_of(source)
    try:
        _ = whole.uses
    except CompileError as error:
        if "nested blocks" not in str(error):
            raise
        return None

    explored = explore_workflow(
        whole,
        Shared([1, 2, 3], n=seed % 2, log=[]),
        client(source),
        make_world=make_service,
        invariants=[as_plain, one_act_for_each_key],
        ignore=TIMED,
        crashes=2,
        max_runs=runs,
        longest=LONGEST,
        seed=seed,
    )
    return Compared(expected.outcome, explored)
