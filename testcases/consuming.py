"""A consumer handles each revision once, in any of its processes, and although handlers fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from flowstate.commands import Command, Commit, End, Pause
from flowstate.context import StateContext
from flowstate.driver import Driver, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import CompactedError, InvalidInputError
from flowstate.recovery import Consumer, DeadLetter
from flowstate.retrying import RetryPolicy
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, raised

__all__ = ["CASES"]

ORDER = {"kind": "order"}
SOON = RetryPolicy(attempts=3, first=0.01, longest=0.02, jitter=False)
SECONDS = 2.0  # Not to be lost when a machine stands still for half a second.


class _Held(DriverWrapper):
    """A driver that holds commits of one state back, as a process that falls asleep does."""

    def __init__(self, driver: Driver, id: str) -> None:
        super().__init__(driver)
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self._id = id

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if self._id in {put.id for writes in batch for put in writes.puts}:
            self.reached.set()
            await self.go_on.wait()
        return await super().commit(batch)


async def _until(h: Harness, reached: Callable[[], object]) -> None:
    while not reached():
        await h.clock.sleep(0.01)


def _has(h: Harness, count: int) -> bool:
    return len(h.visits) == count


async def _caught_up(h: Harness, consumer: Consumer) -> None:
    await _until(h, lambda: consumer.is_consuming)
    while await consumer.lag():
        await h.clock.sleep(0.01)


async def _order(h: Harness, *ids: str) -> None:
    """Commit orders, one after the other."""
    for id in ids:
        await h.engine.do(Commit(Pause(h.ctx(id, labels=ORDER))))


def _counting(h: Harness, engine: Engine) -> Callable[[State], Coroutine[Any, Any, Command[None]]]:
    """Return a handler that counts in a state, and notes its visits."""

    async def count(state: State) -> Command[None]:
        h.visit(state.id)
        ctx = h.ctx("total")
        with contextlib.suppress(Exception):
            ctx = StateContext(await engine.get_state("total"))
        ctx.put(ctx.get(int, default=0) + 1)
        return Pause(ctx)

    return count


async def _total(h: Harness) -> int:
    return (await h.engine.get_state("total")).get(int)


@contextlib.asynccontextmanager
async def _consumer(
    engine: Engine, handler: Callable[..., Any], **options: Any
) -> AsyncIterator[Consumer]:
    defaults: dict[str, Any] = {
        "labels": ORDER,
        "retry": SOON,
        "lease": SECONDS,
        "grace": 1.0,
    }
    async with Consumer(engine, "orders", handler, **(defaults | options)) as consumer:
        yield consumer


@case()
async def consumer_handles_each_revision_once(h: Harness) -> None:
    """G6: in order, those of before and those that come, also when it is left and entered."""
    await _order(h, "1", "2")
    expected = ["1", "2"]
    for turn in range(3):
        async with _consumer(h.engine, _counting(h, h.engine)) as consumer:
            await _order(h, f"a{turn}", f"b{turn}")
            await _caught_up(h, consumer)
        await _order(h, f"c{turn}")
        expected += [f"{letter}{turn}" for letter in "abc"]
    check(h.visits, expected[:-1], "what was handled")
    check(await _total(h), len(expected) - 1, "total")
    check(await Consumer(h.engine, "orders", print, labels=ORDER).lag(), 1, "lag")


@case()
async def consumer_commits_its_place_with_what_it_does(h: Harness) -> None:
    """G6: revisions of the handler and of the place are neighbours in the log."""
    await _order(h, "1", "2", "3")
    async with _consumer(h.engine, _counting(h, h.engine)) as consumer:
        await _caught_up(h, consumer)
    log = [state for state in await h.log() if state.id in ("total", "flowstate.consumer.orders")]
    totals = [state.rev for state in log if state.id == "total"]
    places = [state.rev for state in log if state.id != "total"]
    check(len(totals), 3, "revisions of the handler")
    check(places[1:4], [rev + 1 for rev in totals], "revisions of the place")
    check({state.status for state in log}, {Status.PAUSED}, "they never stall")


@case()
async def consumer_of_other_forms_of_handlers(h: Harness) -> None:
    """G6: a plain function, and none, one or several commands, or a commit of them."""
    answers: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "one": lambda: End(h.ctx("x one")),
        "list": lambda: [End(h.ctx("x two")), End(h.ctx("x three"))],
        "empty": list,
        "commit": lambda: Commit(End(h.ctx("x four"))),
    }
    await _order(h, *answers)
    async with _consumer(h.engine, lambda state: answers[state.id]()) as consumer:
        await _caught_up(h, consumer)
    made = [state.id for state in await h.log() if state.id.startswith("x ")]
    check(made, ["x one", "x two", "x three", "x four"], "what was committed")


@case()
async def consumer_hands_over_what_is_asked_for(h: Harness) -> None:
    """G6: by labels and status, from the start, from now or from a revision; nothing internal."""
    await _order(h, "1", "2")
    await h.engine.do(Commit(End(h.ctx("other"))), Commit(End(h.ctx("3", labels=ORDER))))
    asked: dict[str, dict[str, Any]] = {
        "all": {},
        "orders": {"labels": ORDER},
        "ended": {"labels": ORDER, "status": Status.ENDED},
        "now": {"since": "now"},
        "rev": {"since": 2},
        "internal": {"internal": True},
    }
    seen: dict[str, list[str]] = {name: [] for name in asked}

    def note(name: str, state: State) -> None:
        seen[name].append(state.id)

    async with contextlib.AsyncExitStack() as stack:
        consumers = []
        for name, options in asked.items():
            consumer = Consumer(h.engine, name, partial(note, name), **options)
            consumers.append(await stack.enter_async_context(consumer))
        for consumer in consumers:
            while not consumer.is_consuming:
                await h.clock.sleep(0.01)
        await _order(h, "4")
        for consumer in consumers[:-1]:
            await _caught_up(h, consumer)
        await _until(h, lambda: "4" in seen["internal"])
    check(seen["all"], ["1", "2", "other", "3", "4"], "all")
    check(seen["orders"], ["1", "2", "3", "4"], "orders")
    check(seen["ended"], ["3"], "ended")
    check(seen["now"], ["4"], "from now")
    check(seen["rev"], ["other", "3", "4"], "behind a revision")
    check("flowstate.consumer.internal" in seen["internal"], False, "its own place")
    others = [id for id in seen["internal"] if id.startswith("flowstate.")]
    check(bool(others), True, "internal ones, when asked")


@case()
async def consumer_tries_a_failing_revision_again(h: Harness) -> None:
    """G6: what comes after it waits, because the order matters."""
    await _order(h, "1", "2", "3")
    failures = 5  # More than the policy has attempts.

    async def handle(state: State) -> Command[None]:
        nonlocal failures
        if state.id == "2" and failures:
            failures -= 1
            h.visit("failed")
            raise ValueError("no luck")
        return await _counting(h, h.engine)(state)

    async with _consumer(h.engine, handle) as consumer:
        await _caught_up(h, consumer)
        check(await consumer.dead_letters(), (), "dead letters")
    check(h.visits, ["1", *["failed"] * 5, "2", "3"], "visits")


@case()
async def consumer_passes_over_what_fails_too_often(h: Harness) -> None:
    """G6: and keeps it among the dead letters, with the place."""
    await _order(h, "1", "2", "3", "4")

    def handle(state: State) -> Command[None] | int:
        h.visit(state.id)
        if state.id == "2":
            raise ValueError("no luck")
        return 5 if state.id == "3" else End(h.ctx(f"done {state.id}"))

    async with _consumer(h.engine, handle, skip=True) as consumer:
        await _caught_up(h, consumer)
        letters = await consumer.dead_letters()
    reason = "InvalidInputError: handler: must return commands or None, not a int"
    found = [DeadLetter(2, "2", "ValueError: no luck"), DeadLetter(3, "3", reason)]
    check(list(letters), found, "dead letters")
    check(h.visits, ["1", *"222", *"333", "4"], "visits")
    check((await h.engine.get_state("done 4")).status, Status.ENDED, "what came after")


@case()
async def consumer_plans_again_after_a_lost_race(h: Harness) -> None:
    """G6: when others have moved what the handler wants to change, it is asked again."""
    await h.engine.do(Commit(Pause(h.ctx("total"))))
    await _order(h, "1")

    async def handle(state: State) -> Command[None]:
        command = await _counting(h, h.engine)(state)
        if len(h.visits) < 4:  # Another one is faster.
            await h.engine.do(Commit(Pause(StateContext(await h.engine.get_state("total")))))
        return command

    async with _consumer(h.engine, handle) as consumer:
        await _caught_up(h, consumer)
    check((h.visits, await _total(h)), (["1"] * 4, 1), "attempts, and the total")


@case("shared")
async def consumers_share_one_log(h: Harness) -> None:
    """G6: of three, one consumes; when it is left, another goes on from its place."""
    async with contextlib.AsyncExitStack() as stack:
        left: list[tuple[Consumer, contextlib.AsyncExitStack]] = []
        for _ in range(3):
            own = await stack.enter_async_context(contextlib.AsyncExitStack())
            driver = await own.enter_async_context(h.other_driver())
            engine = await own.enter_async_context(h.make_engine(driver))
            consumer = await own.enter_async_context(_consumer(engine, _counting(h, engine)))
            left.append((consumer, own))
        for turn in range(3):
            await _order(h, f"a{turn}", f"b{turn}")
            await _until(h, partial(_has, h, 2 * turn + 2))
            leading = [each for each in left if each[0].is_consuming]
            check(len(leading), 1, "how many consume")
            await leading[0][1].aclose()
            left.remove(leading[0])
    check(h.visits, ["a0", "b0", "a1", "b1", "a2", "b2"], "what was handled")
    check(await _total(h), 6, "total")


@case()
async def consumer_that_was_asleep_is_refused(h: Harness) -> None:
    """G6: what it was about to commit when another took over is not done twice."""
    held = _Held(h.driver, "total")
    async with h.make_engine(held) as sleeper:
        await _order(h, "1")
        async with _consumer(sleeper, _counting(h, sleeper), grace=0.0) as old:
            await held.reached.wait()
            # Another process took the lease, handled the revision, and gave the lease back.
            lease = await h.engine.get_state("flowstate.lease.flowstate.consumer.orders")
            await h.engine.do(Commit(End(StateContext(lease))))
            async with _consumer(h.engine, _counting(h, h.engine)) as new:
                await _caught_up(h, new)
            held.go_on.set()
            await _caught_up(h, old)
            await _order(h, "2")
            await _caught_up(h, old)
    check(await _total(h), 2, "total")
    check(h.visits[-1], "2", "what the sleeper handled in the end")


@case()
async def consumer_behind_a_gap(h: Harness) -> None:
    """G6: what it cannot know it has missed is told, or passed over if that is wished."""
    await _order(h, "1")
    async with _consumer(h.engine, _counting(h, h.engine)) as consumer:
        await _caught_up(h, consumer)
    for _ in range(2):
        ctx = StateContext(await h.engine.get_state("1"))
        await h.engine.do(Commit(Pause(ctx)))
    await _order(h, "2")
    await h.engine.compact(await h.engine.head())
    consumer = Consumer(h.engine, "orders", _counting(h, h.engine), labels=ORDER)
    await raised(CompactedError, consumer.run)
    check((consumer.is_consuming, h.visits), (False, ["1"]), "consuming")
    async with _consumer(h.engine, _counting(h, h.engine), skip_gap=True) as consumer:
        await _caught_up(h, consumer)
    check(h.visits[-1], "2", "what was handled behind the gap")


@case()
async def consumer_goes_on_after_compaction_up_to_its_place(h: Harness) -> None:
    """G6: nothing is missing when all that was removed is the place's own."""
    await _order(h, "1")
    async with _consumer(h.engine, lambda state: h.visit(state.id)) as consumer:
        await _caught_up(h, consumer)
    await h.engine.compact(await h.engine.head())
    async with _consumer(h.engine, lambda state: h.visit(state.id)) as consumer:
        await _order(h, "2")
        await _caught_up(h, consumer)
    check(h.visits, ["1", "2"], "what was handled")


@case("damage")
async def consumer_meets_damage(h: Harness) -> None:
    """G6: a revision that cannot be read stops it, or is passed over if that is wished."""
    await _order(h, "1", "2", "3")
    await h.damage("revision", "2")
    async with _consumer(h.engine, _counting(h, h.engine)) as consumer:
        await _until(h, lambda: h.visits)
        await h.clock.sleep(0.1)
        check(h.visits, ["1"], "what was handled")
        check(await consumer.lag(), 2, "lag")
    async with _consumer(h.engine, _counting(h, h.engine), skip=True) as consumer:
        await _caught_up(h, consumer)
        (letter,) = await consumer.dead_letters()
    check((letter.rev, h.visits), (2, ["1", "3"]), "passed over, and handled")


@case()
async def consumer_is_left_in_order(h: Harness) -> None:
    """G6: a handler has some time to end; then it is cancelled, and its revision comes again."""
    go_on = asyncio.Event()

    async def handle(state: State) -> Command[None]:
        command = await _counting(h, h.engine)(state)
        if state.id == "slow":
            await h.clock.sleep(0.2)
        if state.id == "stuck":
            await go_on.wait()
        return command

    await _order(h, "slow")
    async with _consumer(h.engine, handle, grace=10.0):
        await _until(h, lambda: h.visits)
    check(await _total(h), 1, "what had the time to end")
    await _order(h, "stuck")
    async with _consumer(h.engine, handle, grace=0.1):
        await _until(h, lambda: len(h.visits) == 2)
    check(await _total(h), 1, "what had not")
    go_on.set()
    async with _consumer(h.engine, handle) as consumer:
        await _caught_up(h, consumer)
    check((h.visits, await _total(h)), (["slow", "stuck", "stuck"], 2), "in the end")


@case()
async def consumer_that_is_left_repeats_nothing(h: Harness) -> None:
    """G6: the place behind what was handled without a commit is stored at the end."""
    for id in ("1", "2"):
        await _order(h, id)
        async with _consumer(h.engine, lambda state: h.visit(state.id)) as consumer:
            await _caught_up(h, consumer)
    check(h.visits, ["1", "2"], "what was handled")


@case()
async def consumer_refuses_bad_input(h: Harness) -> None:
    """G14: a bad option is refused before anything is written."""
    for field, values in {
        "name": ("", None, "x" * 500, "\0"),
        "handler": (None, "handle"),
        "labels": (5,),
        "status": ("ended",),
        "since": (-1, "end", None, True, 1.5),
        "transaction": (5,),
        "retry": (3,),
        "skip": (1,),
        "skip_gap": (None,),
        "internal": ("yes",),
        "save_every": (0, -1, None),
        "grace": (-1, float("nan")),
        "lease": (0, "1"),
        "rng": (5,),
    }.items():
        for value in values:
            options: dict[str, Any] = {"name": "orders", "handler": print, field: value}
            error = await raised(InvalidInputError, Consumer, h.engine, **options)
            check(error.field, field, f"field for {value!r}")
    check(await h.engine.head(), 0, "head")


CASES: tuple[Case, ...] = (
    consumer_handles_each_revision_once,
    consumer_commits_its_place_with_what_it_does,
    consumer_of_other_forms_of_handlers,
    consumer_hands_over_what_is_asked_for,
    consumer_tries_a_failing_revision_again,
    consumer_passes_over_what_fails_too_often,
    consumer_plans_again_after_a_lost_race,
    consumers_share_one_log,
    consumer_that_was_asleep_is_refused,
    consumer_behind_a_gap,
    consumer_goes_on_after_compaction_up_to_its_place,
    consumer_meets_damage,
    consumer_is_left_in_order,
    consumer_that_is_left_repeats_nothing,
    consumer_refuses_bad_input,
)
