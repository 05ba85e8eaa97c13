"""What can be registered, under which ids, and what an id stands for."""

import enum
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    RetryPolicy,
    State,
    StateContext,
    Status,
    Transit,
    UnknownFlowError,
)
from flowstate.drivers.memory import MemoryDriver


@pytest.fixture
def flows() -> FlowRegistry:
    return FlowRegistry()


async def work(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def plain(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


class Callee:
    """A flow may be an object that is called."""

    async def __call__(self, ctx: StateContext, _: Engine) -> Command[None]:
        return Commit(End(ctx))

    def bound(self, ctx: StateContext, _: Engine) -> Command[None]:
        return Commit(End(ctx))


class Name(enum.StrEnum):
    WORK = "work"


# Ids


def test_without_parentheses_the_id_is_the_name_of_the_function(flows: FlowRegistry) -> None:
    assert flows.flow(work) is work
    assert [*flows] == ["work"]
    assert flows.runnable("work").call is work


@pytest.mark.parametrize("options", [{}, {"timeout": 3.0}], ids=["none", "some"])
def test_with_parentheses_and_without_an_id_too(
    flows: FlowRegistry, options: dict[str, Any]
) -> None:
    assert flows.flow(**options)(plain) is plain
    assert [*flows] == ["plain"]
    assert flows.runnable("plain").policy.timeout == options.get("timeout")


def test_a_member_of_an_enum_is_an_id(flows: FlowRegistry) -> None:
    flows.flow(Name.WORK)(plain)
    assert [type(id) for id in flows] == [str]
    assert flows.runnable("work").call is plain


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(lambda *_: Noop(), id="lambda"),
        pytest.param(functools.partial(plain), id="partial"),
        pytest.param(Callee(), id="object"),
    ],
)
def test_what_has_no_name_needs_an_id(flows: FlowRegistry, flow: Any) -> None:
    with pytest.raises(InvalidInputError, match="flow id: is needed"):
        flows.flow(flow)
    flows.flow("named")(flow)
    assert [*flows] == ["named"]


def test_a_method_has_a_name(flows: FlowRegistry) -> None:
    flows.flow(Callee().bound)
    assert [*flows] == ["bound"]


@pytest.mark.parametrize("id", [7, b"work", "", "a\0b", "x" * 513, ["work"]])
def test_bad_ids_are_refused_at_the_decorator(flows: FlowRegistry, id: Any) -> None:
    with pytest.raises(InvalidInputError, match="flow id"):
        flows.flow(id)


def test_two_functions_of_one_name_are_refused(flows: FlowRegistry) -> None:
    flows.flow(work)
    with pytest.raises(InvalidInputError, match="'work' is registered already"):
        flows.flow(work)
    flows.set("work", plain, replace=True)
    assert flows.runnable("work").call is plain


# Functions


def one(ctx: StateContext) -> Command[None]:
    return Noop()


def three(ctx: StateContext, engine: Engine, more: int) -> Command[None]:
    return Noop()


def keyword(ctx: StateContext, *, engine: Engine) -> Command[None]:
    return Noop()


def generator(ctx: StateContext, engine: Engine) -> Iterator[Command[None]]:
    yield Noop()


async def async_generator(ctx: StateContext, engine: Engine) -> AsyncIterator[Command[None]]:
    yield Noop()


class NotAFlow:
    def __init__(self, ctx: StateContext, engine: Engine) -> None: ...


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (one, "two positional arguments"),
        (three, "two positional arguments"),
        (keyword, "two positional arguments"),
        (generator, "must return a command, and not yield"),
        (async_generator, "must return a command, and not yield"),
        (NotAFlow, "must be a function, not the class NotAFlow"),
    ],
)
@pytest.mark.parametrize(
    "register",
    [
        pytest.param(lambda flows, flow: flows.flow(flow), id="bare"),
        pytest.param(lambda flows, flow: flows.flow()(flow), id="parentheses"),
        pytest.param(lambda flows, flow: flows.flow("work")(flow), id="id"),
        pytest.param(lambda flows, flow: flows.set("work", flow), id="set"),
    ],
)
def test_what_cannot_be_called_as_a_flow_is_refused(
    flows: FlowRegistry, flow: Any, message: str, register: Callable[[FlowRegistry, Any], object]
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        register(flows, flow)
    assert [*flows] == []


def with_default(ctx: StateContext, engine: Engine, more: int = 0) -> Command[None]:
    return Noop()


def with_any(*args: Any, **more: Any) -> Command[None]:
    return Noop()


@pytest.mark.parametrize("flow", [work, plain, with_default, with_any, Callee().bound])
def test_what_takes_two_arguments_is_a_flow(flows: FlowRegistry, flow: Any) -> None:
    flows.flow(flow)
    assert flows.can_run(flow.__name__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocking": True}, "blocking: is for plain functions"),
        ({"blocking": 1}, "blocking: must be True or False"),
        ({"interrupt": "yes"}, "interrupt: must be True or False"),
        ({"timeout": 0}, "timeout: must be a number"),
        ({"timeout": -1.0}, "timeout: must be a number"),
        ({"timeout": float("nan")}, "timeout: must be a number"),
        ({"timeout": float("inf")}, "timeout: must be a number"),
        ({"timeout": timedelta(seconds=3)}, "timeout: must be a number"),
        ({"retry": 3}, "retry: must be a RetryPolicy, not int"),
        ({"retry": RetryPolicy}, "retry: must be a RetryPolicy"),
        ({"on_failure": ""}, "on_failure: must not be empty"),
        ({"on_failure": plain}, "on_failure: must be a string"),
        ({"on_failure": "work"}, "on_failure: must be another flow"),
    ],
)
def test_bad_options_are_refused_at_registration(
    flows: FlowRegistry, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        flows.flow("work", **options)(work)
    assert [*flows] == []


def test_an_object_with_an_async_call_does_not_block(flows: FlowRegistry) -> None:
    with pytest.raises(InvalidInputError, match="blocking: is for plain functions"):
        flows.set("work", Callee(), blocking=True)


def test_on_failure_must_not_lead_back_through_an_alias(flows: FlowRegistry) -> None:
    flows.alias("before", "work")
    with pytest.raises(InvalidInputError, match="on_failure: must be another flow"):
        flows.flow("work", on_failure="before")(work)


def test_where_failures_go_is_known(flows: FlowRegistry) -> None:
    flows.set("work", work, on_failure="refund")
    flows.set("plain", plain)
    flows.declare("elsewhere")
    assert [*flows.failing_to()] == [("work", "refund")]


# Policies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts: must be an integer from 1"),
        ({"attempts": 2.0}, "attempts: must be an integer from 1"),
        ({"attempts": True}, "attempts: must be an integer from 1"),
        ({"first": -1}, "first: must be a number"),
        ({"first": float("nan")}, "first: must be a number"),
        ({"factor": 0.5}, "factor: must be a number"),
        ({"longest": float("inf")}, "longest: must be a number"),
        ({"jitter": None}, "jitter: must be True or False"),
        ({"on": ("ValueError",)}, "on: must be subclasses of Exception"),
        ({"on": KeyboardInterrupt}, "on: must be subclasses of Exception"),
        ({"never": (int,)}, "never: must be subclasses of Exception"),
        ({"never": None}, "never: must be subclasses of Exception"),
    ],
)
def test_bad_policies_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        RetryPolicy(**options)


def test_a_single_kind_of_error_needs_no_tuple() -> None:
    assert RetryPolicy(on=ValueError).on == (ValueError,)
    assert RetryPolicy(never=[ValueError, KeyError]).never == (ValueError, KeyError)


# Aliases


@pytest.fixture
def driver(clock: FakeClock) -> MemoryDriver:
    return MemoryDriver(clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_an_alias_leads_to_the_flow(flows: FlowRegistry) -> None:
    flows.alias("old", "new")
    with pytest.raises(UnknownFlowError, match="'old'"):
        flows.runnable("old")
    assert not flows.can_run("old")

    flows.set("new", work)
    flows.alias("older", "old")
    assert [flows.check(id) for id in ("older", "old", "new")] == ["new"] * 3
    assert [flows.runnable(id).id for id in ("older", "old", "new")] == ["new"] * 3
    assert [*flows] == ["new", "old", "older"]
    assert all(id in flows and flows.can_run(id) for id in flows)


def test_an_alias_does_not_take_an_id_nor_lead_back(flows: FlowRegistry) -> None:
    flows.set("work", work)
    flows.alias("old", "work")
    for old, new, message in (
        ("work", "new", "old: 'work' is registered already"),
        ("old", "new", "old: 'old' is registered already"),
        ("same", "same", "new: 'same' leads back to 'same'"),
        ("", "work", "old: must not be empty"),
        ("odd", 7, "new: must be a string"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            flows.alias(old, new)  # type: ignore[arg-type]
    flows.unset("work")
    with pytest.raises(InvalidInputError, match="new: 'old' leads back to 'work'"):
        flows.alias("work", "old")


def test_an_alias_can_be_replaced_and_unset(flows: FlowRegistry) -> None:
    flows.set("work", work)
    flows.alias("old", "work")
    with pytest.raises(InvalidInputError, match="'old' is registered already"):
        flows.set("old", plain)
    flows.set("old", plain, replace=True)
    assert flows.runnable("old").call is plain
    flows.unset("old")
    assert "old" not in flows
    flows.alias("old", "work")
    flows.unset("old")
    with pytest.raises(UnknownFlowError):
        flows.unset("old")
    assert [*flows] == ["work"]


async def test_states_and_delays_of_the_old_id_run_in_the_new_flow(
    driver: MemoryDriver, clock: FakeClock
) -> None:
    before, after = FlowRegistry(), FlowRegistry()
    before.declare("old")
    seen: dict[str, tuple[str, str]] = {}

    async def new(ctx: StateContext, engine: Engine) -> Command[None]:
        seen[ctx.current.id] = (ctx.current.transition.to, ctx.effect_key)
        return Commit(End(ctx))

    async with driver, Engine(driver, before, clock=clock) as engine:
        waiting, delayed = StateContext(State("waiting")), StateContext(State("delayed"))
        await engine.do(Commit(Transit(waiting, "old")))
        await engine.do(Commit(Pause(delayed), Delay(delayed, "old", timedelta(seconds=5))))
        key = waiting.effect_key

    after.set("new", new)
    after.alias("old", "new")
    async with driver, Engine(driver, after, clock=clock) as engine, Delayer(engine):
        await engine.execute(StateContext(await engine.get_state("waiting")))
        while "delayed" not in seen:
            await clock.sleep(1.0)
        await engine.idle()
        ended = await engine.get_states(latest_only=True, status=Status.ENDED)
        assert sorted(state.id for state in ended.states) == ["delayed", "waiting"]
        sent = StateContext(State("sent"))
        await engine.do(Commit(Transit(sent, "old")))
        assert sent.committed.transition.to == "new"
    assert seen["waiting"] == ("old", key)
    assert seen["delayed"][0] == "old"


async def test_a_delay_to_the_same_flow_goes_on_in_the_same_step_under_its_new_id(
    driver: MemoryDriver, clock: FakeClock
) -> None:
    flows = FlowRegistry()
    flows.declare("old")
    keys: list[str] = []

    async def new(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if len(keys) < 3:
            return Commit(Delay(ctx, "new", timedelta(seconds=1)))
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine, Delayer(engine):
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "old")))
        flows.unset("old")
        flows.set("new", new)
        flows.alias("old", "new")
        await engine.execute(ctx)
        while len(keys) < 3:
            await clock.sleep(1.0)
        await engine.idle()
    assert keys == ["a:1:old"] * 3
