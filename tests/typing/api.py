"""What a type checker makes of the public names. Checked by mypy, never run."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_type

from flowstate import (
    CancelTimer,
    Check,
    Command,
    Commit,
    DamagedDelay,
    Data,
    Delay,
    DelayedPage,
    DelayedState,
    End,
    Engine,
    Execute,
    Flow,
    FlowRegistry,
    Forget,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Noop,
    Page,
    Pause,
    Put,
    Receive,
    Resume,
    RetryPolicy,
    RevisionMismatchError,
    SetTimer,
    Stack,
    State,
    StateContext,
    Status,
    StoreData,
    Timer,
    Transit,
    Unstack,
)

flows = FlowRegistry()


@flows.flow("work")
async def work(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Transit(ctx, "rest"))


@flows.flow("rest", blocking=True)
def rest(ctx: StateContext, engine: Engine) -> Pause:
    return Pause(ctx)


@flows.flow
async def bare(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Transit(ctx, "rest"))


@flows.flow(timeout=30.0, on_failure="rest", interrupt=True)
async def named(ctx: StateContext, engine: Engine) -> Command[None]:
    ctx.set_policy(attempts=3, timeout=None)
    return Commit(Transit(ctx, "rest"))


@flows.flow("retried", retry=RetryPolicy(on=OSError, never=(TimeoutError, lambda _: False)))
def retried(ctx: StateContext, engine: Engine) -> Pause:
    return Pause(ctx)


flow: Flow = work
another: Flow = rest
flows_in_turn: tuple[Flow, ...] = (bare, named, retried)
anything: Command[object] = GetState("x")


async def commands(engine: Engine, ctx: StateContext) -> None:
    assert_type(await engine.do(GetState("x")), State)
    assert_type(await engine.do(GetData(ctx, "blob")), Data)
    assert_type(await engine.do(GetStates(limit=5)), Page)
    assert_type(await engine.do(GetDelayedStates()), DelayedPage)
    await engine.do(Commit(Transit(ctx, "work"), Check(ctx), GetState("x")))
    steps: list[Command[None]] = [Transit(ctx, "work"), Pause(ctx), Resume(ctx), End(ctx), Noop()]
    steps += [Delay(ctx, "work", after=timedelta(1)), Execute(ctx), StoreData(ctx, "blob")]
    steps += [SetTimer(ctx, "alarm", "work", after=timedelta(1)), CancelTimer(ctx, "alarm")]
    steps += [Put(ctx), Forget(ctx), Receive(ctx, "m", "n", to="work")]
    steps += [Stack(ctx, ctx, "name"), Unstack(ctx, ctx, "name"), Check(ctx), Commit(*steps)]
    await engine.do(*steps)
    await engine.do(Transit(ctx, "work"), GetState("x"))
    assert_type(await engine.execute(ctx), None)


async def results(engine: Engine, ctx: StateContext) -> None:
    assert_type(await engine.do(Commit(End(ctx))), None)
    assert_type(await engine.do(Noop()), None)
    assert_type(await engine.do(Noop(), Noop()), None)


async def queries(engine: Engine, ctx: StateContext) -> None:
    assert_type(await engine.get_state("x"), State)
    assert_type(await engine.get_data(ctx, "blob"), Data)
    page = await engine.get_states(labels=[{"a": "1"}, {"b": "2"}], status=Status.PAUSED)
    assert_type(page, Page)
    assert_type(page.states, Sequence[State])
    assert_type(await engine.do(page.next), Page)
    delays = await engine.get_delayed_states()
    assert_type(delays.delayed, Sequence[DelayedState])
    assert_type(delays.damaged, Sequence[DamagedDelay])
    async for state in engine.states(labels={"a": "1"}):
        assert_type(state, State)
    async with engine.watch(since_rev=3) as states:
        async for state in states:
            assert_type(state, State)
        assert_type(states.cursor, int)


def values(ctx: StateContext, error: RevisionMismatchError) -> None:
    assert_type(ctx.current, State)
    assert_type(ctx.current.labels, Mapping[str, str])
    assert_type(ctx.current.committed_at, datetime | None)
    assert_type(ctx.data, dict[str, Data])
    assert_type(ctx.fork("new"), StateContext)
    assert_type(error.ids, tuple[str, ...])


def typed_values(ctx: StateContext, state: State) -> None:
    ctx.put({"price": 995}, "bill")
    ctx.remove("bill")
    for source in (ctx, state):
        assert_type(source.get(int), int)
        assert_type(source.get(Data, "order"), Data)
        assert_type(source.get(int, "count", 0), int)
        assert_type(source.get(int, default=None), int | None)
        assert_type(source.get(list[int]), list[int])
        anything: str | None = source.get(str | None)
        assert_type(anything, str | None)
    assert_type(ctx.effect_key, str)
    assert_type(ctx.timer, str)
    assert_type(state.timers, Mapping[str, Timer])
    assert_type(state.timer_due("alarm"), datetime | None)


async def by_their_ids(engine: Engine, ctx: StateContext) -> None:
    assert_type(await engine.start(ctx, "work", {"why": "x"}), None)
    assert_type(await engine.wait_for("x", status=Status.ENDED, timeout=1.0), State)
    assert_type(await engine.wait_for("x", until=lambda state: state.rev > 3), State)
    assert_type(await engine.signal("x", "approved", {"by": "anna"}, key="click"), bool)
    assert_type(await engine.count(labels={"a": "1"}, status=Status.PAUSED), int)
    async for state in engine.history("x"):
        assert_type(state, State)
    async for state in engine.in_flow("work"):
        assert_type(state, State)
    assert_type(ctx.signal, str)


async def updates(engine: Engine) -> None:
    async def later(ctx: StateContext) -> list[Command[None]]:
        return [Transit(ctx, "work"), Noop()]

    assert_type(await engine.update("x", lambda ctx: ctx.set_label("a", "1")), State)
    assert_type(await engine.update("x", lambda ctx: Transit(ctx, "work")), State)
    assert_type(await engine.update("x", End, attempts=3), State)
    assert_type(await engine.update("x", later), State)
    await engine.update("x", lambda _: 5)  # type: ignore[arg-type,return-value]


async def forgetting(engine: Engine) -> None:
    assert_type(await engine.prune(ended_before=None, labels={"kind": "x"}, limit=5), int)


async def the_decorator_keeps_the_type(engine: Engine, ctx: StateContext) -> None:
    assert_type(await work(ctx, engine), Command[None])
    assert_type(rest(ctx, engine), Pause)


async def mistakes(engine: Engine, ctx: StateContext) -> None:
    ctx.current.rev = 7  # type: ignore[misc]
    Transit("x", "work")  # type: ignore[arg-type]
    Transit(ctx)  # type: ignore[call-arg]
    await engine.do("x")  # type: ignore[call-overload]
    Commit("x")  # type: ignore[arg-type]

    @flows.flow("bad")  # type: ignore[type-var]
    async def bad(ctx: StateContext) -> Command[None]:
        return Noop()

    @flows.flow  # type: ignore[type-var]
    async def bad_too(ctx: StateContext) -> Command[None]:
        return Noop()

    @flows.flow("odd", retry=3)  # type: ignore[call-overload,untyped-decorator]
    async def odd(ctx: StateContext, engine: Engine) -> Command[None]:
        return Noop()

    @flows.flow("worse")  # type: ignore[type-var]
    async def worse(ctx: StateContext, engine: Engine) -> int:
        return 1
