"""What states want and are told: sleeps, steps, subflows, several at once, and their problems."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from flowstate import FakeClock, InvalidInputError
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.logic import (
    AllReturned,
    AnyReturned,
    Cancelled,
    Done,
    Entered,
    Machine,
    Next,
    NextError,
    Problem,
    Retry,
    Returned,
    Run,
    RunAll,
    RunAny,
    Sleep,
    Slept,
    Stay,
    To,
    Wake,
)
from tests.engines.logic.driving import machines_of, revisions, seconds, shop, work

Values = dict[str, Any]


class Seen(msgspec.Struct):
    said: list[str] = msgspec.field(default_factory=list)
    count: int = 0


plain = Machine("plain", Seen)


@plain.state("first")
async def first(s: Seen, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    s.said.append("first")
    return To("second")


@plain.state("second")
def second(s: Seen, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    s.said.append("second")
    return To("third") if s.count else Done()


@plain.state("third")
def third(s: Seen, _: Wake) -> Next:
    return Done(s.count)


async def test_states_follow_each_other_and_touch_nothing() -> None:
    async with machines_of(plain) as machines:
        assert await machines.start(plain, "a", Seen())
        assert not await machines.start(plain, "a", Seen())
        assert await machines.result("a") == {"said": ["first", "second"], "count": 0}
        await machines.start(plain, "b", Seen(count=3))
        assert await machines.result("b") == 3

        assert (await machines.query("b")).said == ["first", "second"]
        assert len(await revisions(machines, "a")) == 2
        assert shop.did == []


nap = Machine("nap")


@nap.state("nap")
async def take_nap(s: Values, wake: Wake) -> Next:
    s["wakes"] = [*s.get("wakes", []), type(wake).__name__]
    return Sleep(seconds(s["time"])) if isinstance(wake, Entered) else Done(s["wakes"])


@pytest.mark.parametrize("time", [0.0, 1.0, 43_200.0])
async def test_a_sleep_lasts_its_time(time: float) -> None:
    clock = FakeClock()
    async with machines_of(nap, clock=clock) as machines:
        before = clock.now()
        await machines.start(nap, "n", {"time": time})
        assert await machines.result("n") == ["Entered", "Slept"]

        assert timedelta(seconds=time) <= clock.now() - before < timedelta(seconds=time + 5)


def test_times_and_counts_are_checked_when_they_are_said() -> None:
    for bad in (-1, 5, seconds(-1), timedelta.max):
        with pytest.raises(InvalidInputError, match="time"):
            Sleep(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="limit"):
        RunAll([], limit=0)
    with pytest.raises(InvalidInputError, match="a function or a machine"):
        Run("work")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="list of Run"):
        RunAny([work])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="subflow"):
        Run(plain, 1, 2)
    with pytest.raises(InvalidInputError, match="subflows only"):
        Run(work, "a", detached=True)
    with pytest.raises(InvalidInputError, match="attempts"):
        Retry(attempts=0)


class Paid(msgspec.Struct):
    cents: int


async def pay(cents: int) -> Paid:
    await shop.do("pay")
    return Paid(cents)


async def charge(paid: Paid, *, note: str = "") -> str:
    return f"{paid.cents} {note}"


pays = Machine("pays")


@pays.state("pay")
async def state_pay(s: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(pay, s["cents"])
        case Returned(Paid() as paid):
            return Run(charge, paid, note="x", timeout=seconds(5))
        case Returned(text):
            return Done(text)
    raise AssertionError(wake)


async def test_arguments_and_results_are_of_the_types_that_functions_say() -> None:
    async with machines_of(pays) as machines:
        await machines.start(pays, "p", {"cents": 7})
        assert await machines.result("p") == "7 x"
        assert len(await revisions(machines, "p")) <= 4


child = Machine("child", catch={"bank.*": "give up"})


@child.state("work")
async def child_work(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Run(work, s["input"])
        case Returned(value):
            return Done(value)
    return None


@child.state("give up")
async def give_up(_: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    return To("late", fails=wake.problem)


@child.state("late")
async def late(s: Values, _: Wake) -> Next:
    s["cleaned"] = True
    return Done()


parents = Machine("parents", Seen, catch={"bank.closed": "told", "retries.*": "told"})


@parents.state("run")
async def state_run(s: Seen, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        return Run(child, "a", retry=Retry(["bank.busy"], attempts=3, first=60))
    s.said.append(wake.value)  # type: ignore[union-attr]
    return Done(s.said)


@parents.state("told")
async def told(_: Seen, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    assert wake.problem is not None
    return Done([wake.problem.code, wake.problem.text])


async def test_a_subflow_returns_and_its_problem_is_known_by_its_code() -> None:
    async with machines_of(parents) as machines:
        await machines.start(parents, "a")
        assert await machines.result("a") == ["a done"]
        shop.broken["a"] = ["bank.closed"]
        await machines.start(parents, "b")
        assert await machines.result("b") == ["bank.closed", "a is down"]
        shop.broken["a"] = ["x"]
        await machines.start(parents, "c")
        with pytest.raises(InstanceFailedError, match=r"Problem: x: a is down") as failed:
            await machines.result("c")

        assert isinstance(failed.value.__cause__, Problem)
        assert (failed.value.__cause__.code, failed.value.__cause__.text) == ("x", "a is down")


async def test_what_is_retried_is_run_again_until_that_is_exhausted() -> None:
    clock = FakeClock()
    async with machines_of(parents, clock=clock) as machines:
        shop.broken["a"] = ["bank.busy", "bank.busy", None]
        before = clock.now()
        await machines.start(parents, "a")
        assert await machines.result("a") == ["a done"]
        assert clock.now() - before >= seconds(120)
        shop.broken["a"] = ["bank.busy"]
        await machines.start(parents, "b")
        code, text = await machines.result("b")

    assert code == "retries.exceeded"
    assert text == "3 attempts, the last one: bank.busy: a is down"
    assert len(shop.did) == 6


several = Machine("several", Seen, catch={"*": "told"})


@several.state("all")
async def state_all(s: Seen, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        runs = [Run(work, str(number)) for number in range(s.count)]
        return RunAll(runs, limit=3, strict="lenient" not in s.said)
    assert isinstance(wake, AllReturned)
    return Done(wake.values)


@several.state("told")
async def state_told(_: Seen, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    assert wake.problem is not None
    return Done([wake.problem.code, wake.problem.text, *wake.problem.failed])


async def test_all_return_in_order_and_none_returns_at_once() -> None:
    async with machines_of(several) as machines:
        await machines.start(several, "a", Seen(count=12))
        assert await machines.result("a") == [f"{number} done" for number in range(12)]
        await machines.start(several, "b", Seen(count=0))
        assert await machines.result("b") == []
        assert len(set(shop.acts)) == 12


async def test_no_more_run_at_once_than_the_limit_says() -> None:
    async with machines_of(several) as machines:
        for number in range(12):
            shop.held[str(number)] = asyncio.Event()
        await machines.start(several, "a", Seen(count=12))
        for number in range(3):
            await shop.begun[str(number)].wait()
        assert shop.did == ["0", "1", "2"]
        shop.held["1"].set()
        await shop.begun["3"].wait()
        assert shop.did == ["0", "1", "2", "3"]
        for each in shop.held.values():
            each.set()
        assert len(await machines.result("a")) == 12


async def test_one_that_fails_ends_the_others_and_is_named() -> None:
    async with machines_of(several) as machines:
        shop.broken |= {"1": ["bank.busy"], "2": ["bank.closed"]}
        shop.held["0"] = asyncio.Event()
        await machines.start(several, "a", Seen(count=20))
        code, text, *failed = await machines.result("a")

    assert code == "bank.busy"
    assert "[1] bank.busy: 1 is down" in text
    assert failed[0] == {"index": 1, "code": "bank.busy", "text": "1 is down"}
    assert "19" not in shop.did


async def test_all_that_failed_are_named_if_they_may_go_on() -> None:
    async with machines_of(several) as machines:
        shop.broken |= {"3": ["bank.busy"], "17": ["bank.closed"]}
        await machines.start(several, "a", Seen(["lenient"], 20))
        code, text, *failed = await machines.result("a")

    assert code == "bank.busy"
    assert text.startswith("2 of 20 failed: [3] bank.busy: 3 is down; [17] bank.closed")
    assert [each["index"] for each in failed] == [3, 17]
    assert len(shop.did) == 20


race = Machine("race", Seen, catch={"*": "told"})


@race.state("any")
async def state_any(s: Seen, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        return RunAny([Run(child, str(number)) for number in range(s.count)], limit=s.count or 1)
    assert isinstance(wake, AnyReturned)
    return Done([wake.index, wake.value])


race.state("told")(state_told)


async def test_any_goes_on_with_the_first_that_returns_and_cancels_the_others() -> None:
    async with machines_of(race) as machines:
        shop.broken["0"] = ["bank.busy"]
        shop.held["2"] = asyncio.Event()
        await machines.start(race, "r", Seen(count=3))
        assert await machines.result("r") == [1, "1 done"]
        states = machines.engine.states(labels={"outcome": "cancelled"}, latest_only=True)
        assert len([each async for each in states]) == 1


async def test_any_fails_only_if_all_do_and_tells_all() -> None:
    async with machines_of(race) as machines:
        shop.broken |= {str(number): [f"bank.{number}"] for number in range(3)}
        await machines.start(race, "r", Seen(count=3))
        code, text, *failed = await machines.result("r")

    assert code.startswith("bank.")
    assert text.startswith("3 of 3 failed")
    assert sorted(each["code"] for each in failed) == ["bank.0", "bank.1", "bank.2"]


async def test_any_of_nothing_is_refused() -> None:
    async with machines_of(race) as machines:
        await machines.start(race, "r", Seen())
        with pytest.raises(InstanceFailedError, match="RunAny needs at least one"):
            await machines.result("r")


detaches = Machine("detaches")


@detaches.state("start")
async def start(_: Values, wake: Wake) -> Next:
    if isinstance(wake, Returned):
        return Done(wake.value)
    return Run(nap, {"time": 3600}, detached=True)


async def test_a_detached_subflow_goes_on_by_itself() -> None:
    async with machines_of(detaches) as machines:
        await machines.start(detaches, "d")
        id = await machines.result("d")
        state = await machines.engine.get_state(id)
        assert state.labels["started_by"] == "d"
        assert "outcome" not in state.labels
        assert await machines.result(id) == ["Entered", "Slept"]


async def unknown(_: Values, __: Wake) -> Next:
    return Run(eval, "1")


wrong = Machine("wrong", Seen, catch={"*": "end"})


@wrong.state("begin")
async def begin(s: Seen, _: Wake) -> Any:  # noqa: C901, PLR0911 - one for each
    match s.count:
        case 0:
            return None
        case 1:
            return To("nowhere")
        case 2:
            return Stay()
        case 3:
            return Run(eval, "1")
        case 4:
            return Run(work, 1, 2, 3)
        case 5:
            return Run(pays, "text", "no")
        case 6:
            s.said = 5  # type: ignore[assignment]
            return Done()
        case 7:
            return Done(object())
        case 8:
            raise KeyError("k")
        case 9:
            return "second"
        case 10:
            return Run(strict, {"count": "no"})
        case 11:
            return Run(lambda: 1)
    return Sleep(seconds(1))


@wrong.state("end")
async def end(_: Seen, __: Wake) -> Next:
    return Done("caught")


strict = Machine("strict", Seen)
strict.state("end")(end)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, r"NextError: state 'begin' must answer Entered\(problem=None\) by .* not None"),
        (1, "NextError: there is no state 'nowhere'; these are: begin, end"),
        (2, "NextError: Stay needs a Sleep, or a wait"),
        (3, "NextError: 'builtins.eval' could not be found again"),
        (4, "NextError: 'tests.engines.logic.driving.work' cannot be run so: too many positional"),
        (5, "InvalidInputError: args: of a subflow are one value"),
        (6, "NextError: the values are not of their type"),
        (7, "InvalidInputError: .*cannot be stored as JSON"),
        (8, "KeyError: 'k'"),
        (9, "NextError: .* not 'second'"),
        (10, "NextError: 'strict' cannot be run so: .*count"),
        (11, "NextError: .*lambda.* could not be found again"),
    ],
)
async def test_what_cannot_be_done_ends_the_instance_and_says_why(number: int, text: str) -> None:
    async with machines_of(wrong) as machines:
        await machines.start(wrong, "w", Seen(count=number))
        with pytest.raises(InstanceFailedError, match=text) as failed:
            await machines.result("w")

    assert not isinstance(failed.value.__cause__, Problem)
    assert isinstance(failed.value.__cause__, NextError | InvalidInputError | KeyError)


async def test_an_instance_that_failed_is_retried_by_an_operator() -> None:
    async with machines_of(wrong) as machines:
        await machines.start(wrong, "w", Seen(count=1))
        with pytest.raises(InstanceFailedError):
            await machines.result("w")
        await machines.edit("w", lambda held: setattr(held.values, "count", 6))
        await machines.goto("w", "end", by="anna")
        assert await machines.result("w") == "caught"


async def test_a_machine_is_checked_before_anything_runs() -> None:
    broken = Machine("broken", catch={"*": "nowhere"})
    with pytest.raises(InvalidInputError, match="has none"):
        broken.check_states()
    broken.state("a")(end)
    with pytest.raises(InvalidInputError, match="has a state 'a' already"):
        broken.state("a")
    with pytest.raises(InvalidInputError, match="timeout"):
        broken.state("b", timeout=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="no state 'nowhere'"):
        async with machines_of(broken):
            pass


async def test_values_begin_by_the_rules_of_inputs() -> None:
    async with machines_of(sinks) as machines:
        for number, (given, values) in enumerate(
            [
                (None, {}),
                ({"a": 1}, {"a": 1}),
                ([1], {"input": [1]}),
                ("x", {"input": "x"}),
                (5, {"input": 5}),
                (b"\x00\xff", {"input": "AP8="}),
            ]
        ):
            await machines.start(sinks, str(number), given)
            assert await machines.result(str(number)) == values
        with pytest.raises(InvalidInputError, match="values"):
            await machines.start(plain, "p", {"count": "many"})


sinks = Machine("sinks")


@sinks.state("end")
def sink(_: Values, __: Wake) -> Next:
    return Done()


async def test_a_state_that_falls_asleep_stays_as_it_is_told() -> None:
    stays = Machine("stays")

    @stays.state("only")
    async def only(s: Values, wake: Wake) -> Next:
        s["naps"] = s.get("naps", 0) + isinstance(wake, Slept)
        if isinstance(wake, Cancelled):
            return Done(s["naps"])
        return (
            Sleep(seconds(1)) if isinstance(wake, Entered) else Stay() if s["naps"] < 3 else Done(3)
        )

    clock = FakeClock()
    async with machines_of(stays, clock=clock) as machines:
        before = clock.now()
        await machines.start(stays, "s")
        assert await machines.result("s") == 3
        assert clock.now() - before >= seconds(3)


async def test_endless_moves_are_committed_now_and_then_and_can_be_cancelled() -> None:
    loops = Machine("loops")

    @loops.state("a")
    async def a(s: Values, wake: Wake) -> Next:
        s["moves"] = s.get("moves", 0) + 1
        return Done() if isinstance(wake, Cancelled) else To("a")

    async with machines_of(loops) as machines:
        await machines.start(loops, "l")
        await machines.engine.wait_for("l", until=lambda each: each.rev > 2)
        await machines.cancel("l")
        state = await machines.engine.wait_for("l", until=lambda each: each.status == "ended")
        assert state.labels["outcome"] == "cancelled"
        assert (await machines.query("l"))["moves"] >= 100


counts = Machine("counts")


@counts.state("count")
async def count(s: Values, _: Wake) -> Next:
    s["n"] += 1
    return To("look")


@counts.state("look")
async def look(s: Values, _: Wake) -> Next:
    match s["n"]:
        case 5:
            return Done(s["n"])
        case _:
            return To("count")


async def test_a_loop_of_states_goes_on_as_its_values_say() -> None:
    async with machines_of(counts) as machines:
        await machines.start(counts, "c", {"n": 0})
        assert await machines.result("c") == 5


flows = Machine("flows")


@flows.state("all")
async def all_flows(_: Values, wake: Wake) -> Next:
    if isinstance(wake, AllReturned):
        return Done(wake.values)
    return RunAll([Run(child, str(number)) for number in range(12)])


async def test_twelve_subflows_return_in_order() -> None:
    async with machines_of(flows) as machines:
        await machines.start(flows, "f")
        assert await machines.result("f") == [f"{number} done" for number in range(12)]
        labels = {"parent": "f", "outcome": "done"}
        children = machines.engine.states(labels=labels, latest_only=True)
        assert len([each async for each in children]) == 12


async def test_an_operator_lets_it_try_again_what_has_failed() -> None:
    async with machines_of(parents, several) as machines:
        shop.broken["a"] = ["x"]
        await machines.start(parents, "p")
        with pytest.raises(InstanceFailedError, match="Problem: x"):
            await machines.result("p")
        shop.broken.clear()
        await machines.retry("p", by="anna")
        assert await machines.result("p") == ["a done"]


only = Machine("only", Seen)
only.state("all")(state_all)


async def test_an_operator_lets_it_try_several_again() -> None:
    async with machines_of(only) as machines:
        shop.broken["2"] = ["x"]
        await machines.start(only, "o", Seen(["lenient"], 4))
        with pytest.raises(InstanceFailedError, match="1 of 4 failed"):
            await machines.result("o")
        shop.broken.clear()
        await machines.retry("o")
        assert await machines.result("o") == [f"{number} done" for number in range(4)]
