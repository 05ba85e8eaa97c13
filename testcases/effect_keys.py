"""Keys for effects: the same each time a step runs again, and another one for the next step."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from flowstate import recovery
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Noop,
    Pause,
    Put,
    Resume,
    Retry,
    SetTimer,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.recovery import Recoverer
from flowstate.recovery_rules import AGAIN
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import take

__all__ = ["CASES", "NEXT", "SAME", "Way"]

Way = Callable[[StateContext], Command[None]]
"""What a flow returns, so that something runs again."""

NOW = timedelta(0)
QUICK = {"lease": 1.0, "poll_interval": 0.05}
ANNOTATED = {AGAIN: "", "flowstate.note": "kept", "own": "left out"}


def _with_data(ctx: StateContext) -> Command[None]:
    ctx.data["bill"] = Data(b"995")
    return Commit(StoreData(ctx, "bill"), Retry(ctx))


def _with_a_value(ctx: StateContext) -> Command[None]:
    ctx.put({"attempts": len(ctx.get(dict, default={})) + 1})
    return Commit(Put(ctx), Delay(ctx, "work", after=NOW))


SAME: dict[str, Way] = {
    "a retry": lambda ctx: Commit(Retry(ctx)),
    "a retry without a commit": Retry,
    "a resumption": lambda ctx: Commit(Pause(ctx), Resume(ctx)),
    "a delay": lambda ctx: Commit(Delay(ctx, "work", after=NOW)),
    "a delay of what pauses": lambda ctx: Commit(Pause(ctx), Delay(ctx, "work", after=NOW)),
    "a delay of what has ended": lambda ctx: Commit(End(ctx), Delay(ctx, "work", after=NOW)),
    "a delay by itself": lambda ctx: Delay(ctx, "work", after=NOW),
    "a delay without a commit": lambda ctx: Commit(Delay(ctx, "work", after=NOW, commit=False)),
    "one by itself without a commit": lambda ctx: Delay(ctx, "work", after=NOW, commit=False),
    "the same step again": lambda ctx: Commit(Delay(ctx, "work", after=NOW, annotations=ANNOTATED)),
    "a pause of a policy": lambda ctx: Commit(
        Retry(ctx, {"flowstate.failures": "1"}),
        Delay(ctx, "work", after=NOW, annotations=ANNOTATED),
    ),
    "the same step again without a commit": lambda ctx: Commit(
        Delay(ctx, "work", after=NOW, commit=False, annotations=ANNOTATED)
    ),
    "a timer to the same flow": lambda ctx: Commit(
        Pause(ctx), SetTimer(ctx, "wake", "work", after=NOW)
    ),
    "data": _with_data,
    "a value": _with_a_value,
}
"""Ways in which a step runs again."""

NEXT: dict[str, Way] = {
    "a transit to the same flow": lambda ctx: Commit(Transit(ctx, "work")),
    "one without a commit": lambda ctx: Transit(ctx, "work"),
    "one that pauses at once": lambda ctx: Commit(Transit(ctx, "work"), Pause(ctx), Resume(ctx)),
    "one with a delay": lambda ctx: Commit(
        Transit(ctx, "work"), Delay(ctx, "work", after=NOW, annotations={"own": "annotation"})
    ),
    "a delay to another flow": lambda ctx: Commit(Delay(ctx, _other(ctx), after=NOW)),
    "one by itself to another flow": lambda ctx: Delay(ctx, _other(ctx), after=NOW),
    "one without a commit to another flow": lambda ctx: Commit(
        Delay(ctx, _other(ctx), after=NOW, commit=False)
    ),
    "a timer to another flow": lambda ctx: Commit(
        Pause(ctx), SetTimer(ctx, "wake", _other(ctx), after=NOW)
    ),
}
"""Ways in which another step begins."""


def _other(ctx: StateContext) -> str:
    return "rework" if ctx.current.transition.to == "work" else "work"


async def _keys(h: Harness, ways: dict[str, Way], visits: int) -> dict[str, list[str]]:
    """Let a state run for each way, and return the keys that it had, by its id."""
    keys: dict[str, list[str]] = {way: [] for way in ways}

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        id = ctx.current.id
        keys[id].append(ctx.effect_key)
        return ways[id](ctx) if len(keys[id]) < visits else Commit(End(ctx, {"over": ""}))

    h.flows.set("work", work)
    h.flows.set("rework", work)
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        for id in ways:
            ctx = h.ctx(id)
            await h.engine.do(Commit(Transit(ctx, "work")), Execute(ctx))
        over: set[str] = set()
        while len(over) < len(ways):
            (state,) = await take(ended, 1)
            over |= {state.id} if "over" in state.transition.annotations else set()
    return keys


@case()
async def keys_of_a_step_that_runs_again(h: Harness) -> None:
    """G11: whatever makes a step run again, its key for effects stays the same."""
    for id, keys in (await _keys(h, SAME, 4)).items():
        check((len(keys), len(set(keys))), (4, 1), f"keys after {id}: {keys}")
        state = await h.engine.get_state(id)
        check(f"{id}:{state.transition.origin}:work", keys[0], "the stored origin")


@case()
async def keys_of_the_next_step(h: Harness) -> None:
    """G11: whatever begins another step, it has another key for effects."""
    for id, keys in (await _keys(h, NEXT, 4)).items():
        check((len(keys), len(set(keys))), (4, 4), f"keys after {id}: {keys}")


@case()
async def keys_of_claimed_delays_of_one_commit(h: Harness) -> None:
    """G10: delays that run without a commit are steps of their own, also of one revision."""
    keys: list[str] = []
    both = asyncio.Event()

    @h.flows.flow("remind")
    async def remind(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if len(keys) == 2:
            both.set()
        return Noop()

    h.flows.declare("work")
    ctx = h.ctx("a")
    delays = [Delay(ctx, "remind", after=NOW, commit=False) for _ in range(2)]
    await h.engine.do(Commit(Transit(ctx, "work"), *delays))
    async with Delayer(h.engine):
        await both.wait()
    rev = ctx.committed.rev
    check({*keys}, {f"a:{rev}.1:remind", f"a:{rev}-1.1:remind"}, "keys")


@case()
async def again_leaves_the_step_as_it_was(h: Harness) -> None:
    """G10: a delay marked so leaves cause, origin and annotations, and adds this library's own."""
    seen: dict[str, list[object]] = {}

    @h.flows.flow("work")
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        step, found = ctx.current.transition, seen.setdefault(ctx.current.id, [])
        found.append((step.cause, dict(step.annotations), ctx.delayed, ctx.effect_key))
        commit = ctx.current.id == "committed"
        if len(found) > 1:
            return Commit(End(ctx))
        return Commit(Delay(ctx, "work", after=NOW, commit=commit, annotations=ANNOTATED))

    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        for id in ("committed", "claimed"):
            ctx = h.ctx(id)
            await h.engine.do(Commit(Transit(ctx, "work", {"why": "first"})), Execute(ctx))
        await take(ended, 2)
    for id, (first, second) in seen.items():
        rev = next(s.rev for s in await h.log() if s.id == id)
        before = ("transit", {"why": "first"}, False, f"{id}:{rev}:work")
        after = ("transit", {"why": "first", "flowstate.note": "kept"}, False, before[-1])
        check((first, second), (before, after), f"the step of what is {id}")


@case()
async def keys_over_attempts_and_death(h: Harness) -> None:
    """G11: attempts, chains without commits and an operator's retry of the dead keep the keys."""
    keys: dict[str, list[str]] = {"work": [], "next": []}
    is_mended = False

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys["work"].append(ctx.effect_key)
        return Transit(ctx, "next")

    @h.flows.flow("next")
    async def then(ctx: StateContext, engine: Engine) -> Command[None]:
        keys["next"].append(ctx.effect_key)
        if is_mended:
            return Commit(End(ctx))
        raise ConnectionError("the reply is lost")

    ctx = h.ctx("job")
    recovery.set_retry_after(ctx, timedelta(milliseconds=250 if h.has_fake_clock else 800))
    recovery.set_max_attempts(ctx, 1)
    await h.engine.do(Commit(Transit(ctx, "work")))
    async with (
        Recoverer(h.engine, **QUICK),  # type: ignore[arg-type]
        h.engine.watch(labels=recovery.DEAD) as dead,
    ):
        await h.engine.do(Execute(ctx))
        await anext(dead)
        await h.engine.idle()
        is_mended = True
        await recovery.retry_dead(h.engine, "job")
        await h.engine.idle()
    check((await h.engine.get_state("job")).status, Status.ENDED, "status")
    for flow, found in keys.items():
        check((len(found), len(set(found))), (3, 1), f"keys in {flow}: {found}")
    check(keys["work"][0] == keys["next"][0], False, "whether both have the same key")


@case()
async def keys_over_a_hand_over(h: Harness) -> None:
    """G11: what another engine takes over has the key that it had."""
    begun, keys = asyncio.Event(), list[str]()

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if len(keys) > 2:
            return Commit(End(ctx))
        ctx.put(len(keys))
        await engine.do(Commit(Put(ctx)))
        keys.append(ctx.effect_key)
        begun.set()
        await asyncio.Event().wait()
        return Noop()

    ctx = h.ctx("job")
    await h.engine.do(Commit(Transit(ctx, "work")))
    async with h.make_engine(shutdown_timeout=0.01) as engine:
        await engine.do(Execute(ctx))
        await begun.wait()
    async with (
        Recoverer(h.engine, **QUICK),  # type: ignore[arg-type]
        h.engine.watch(status=Status.ENDED, labels={}) as ended,
    ):
        while (await anext(ended)).id != "job":
            pass
    check((len(keys), len(set(keys))), (3, 1), f"keys: {keys}")


CASES: tuple[Case, ...] = (
    keys_of_a_step_that_runs_again,
    keys_of_the_next_step,
    again_leaves_the_step_as_it_was,
    keys_over_attempts_and_death,
    keys_over_a_hand_over,
)
