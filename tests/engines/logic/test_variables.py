"""Variables in scopes, transforms, the log, schedules, and states that are not there any more."""

import logging
from typing import Any

import msgspec
import pytest

from flowstate import InvalidInputError, Status
from flowstate.engines.expressions import Expressions
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.logic import (
    Arrived,
    Await,
    Done,
    Entered,
    Event,
    Machine,
    Next,
    Returned,
    Run,
    RunAll,
    Scope,
    Sleep,
    To,
    Variables,
    Wake,
    get_variables,
    log,
    set_variables,
)
from flowstate.engines.logic.running import find
from flowstate.engines.workflow.checking import check
from tests.engines.logic.driving import event, machines_of, seconds, shop, stands, work

Values = dict[str, Any]

counts = Machine("counts", namespace="shop", catch={"variables.changed": "raced"})


@counts.state("read")
async def read(s: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(get_variables, s["scope"], "count")
        case Returned(Variables(values, revision)):
            s["count"] = (values["count"] or 0) + 1
            known = revision if s["scope"] != "instance" else None
            s["known"] = s.get("known", known)
            return To("write")
    raise AssertionError(wake)


@counts.state("write")
async def write(s: Values, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        return Run(set_variables, s["scope"], {"count": s["count"], "no": None}, s["known"])
    return Done(s["count"])


@counts.state("raced")
async def raced(s: Values, _: Wake) -> Next:
    return Done("raced")


@pytest.mark.parametrize(
    ("scope", "counted"), [("instance", [1, 1]), ("machine", [1, 2]), ("namespace", [1, 2])]
)
async def test_variables_last_as_long_as_their_scope(scope: Scope, counted: list[int]) -> None:
    async with machines_of(counts) as machines:
        for number, count in enumerate(counted):
            await machines.start(counts, str(number), {"scope": scope})
            assert await machines.result(str(number)) == count
        state = await machines.engine.get_state("0")
        assert msgspec.json.decode(state.values["data"]).get("variables", {}) == (
            {"count": 1} if scope == "instance" else {}
        )


async def test_a_change_of_what_others_have_changed_is_a_problem() -> None:
    async with machines_of(counts) as machines:
        await machines.start(counts, "a", {"scope": "machine", "known": 0})
        assert await machines.result("a") == 1
        await machines.start(counts, "b", {"scope": "machine", "known": 0})
        assert await machines.result("b") == "raced"


forgets = Machine("forgets")


@forgets.state("run")
async def forget(_: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(set_variables, "machine", {"a": 1, "b": 2})
        case Returned(int()):
            return RunAll([Run(set_variables, "machine", {"a": None})])
        case Returned(Variables(values)):
            return Done(values)
    return Run(get_variables, "machine")


async def test_nothing_deletes_a_variable() -> None:
    async with machines_of(forgets) as machines:
        await machines.start(forgets, "f")
        assert await machines.result("f") == {"b": 2}


class Typed(msgspec.Struct):
    total: int = 0
    names: list[str] = msgspec.field(default_factory=list)


transforms = Machine("transforms", Typed, catch={"transform": "wrong"})


@transforms.state("run")
async def state_run(s: Typed, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(work, "a", transform=".names += [$result]")
        case Returned():
            assert s.names == ["a done"]
            return To("again", transform=".total = (.names | length)")
    raise AssertionError(wake)


@transforms.state("again")
async def again(s: Typed, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        assert s.total == 1
        return Sleep(seconds(1), transform=s.names[0] if s.total > 1 else ".total = 5")
    return Done(transform=".names = []") if s.total == 5 else Done()


@transforms.state("wrong")
async def wrong(s: Typed, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    return Done(f"{s.total} {wake.problem}")


async def test_values_are_transformed_by_jq() -> None:
    async with (
        Expressions() as expressions,
        machines_of(transforms, expressions=expressions) as machines,
    ):
        await machines.start(transforms, "t")
        assert await machines.result("t") == {"total": 5, "names": []}


nests = Machine("nests")


@nests.state("a")
async def nest(_: Values, __: Wake) -> Next:
    return To("b", transform='{a: {b: [.x, {c: .y}]}, text: "jq(.x)", x, y: (.y | tostring)}')


@nests.state("b")
async def nested(s: Values, _: Wake) -> Next:
    return Done(s)


async def test_nested_values_and_texts_that_look_like_programs() -> None:
    async with (
        Expressions() as expressions,
        machines_of(nests, expressions=expressions) as machines,
    ):
        await machines.start(nests, "n", {"x": "jq(.y)", "y": 1})
        assert await machines.result("n") == {
            "a": {"b": ["jq(.y)", {"c": 1}]},
            "text": "jq(.x)",
            "x": "jq(.y)",
            "y": "1",
        }


bad = Machine("bad", Typed, catch={"transform": "wrong"})


@bad.state("run")
async def bad_run(s: Typed, _: Wake) -> Next:
    return To("wrong", transform=s.names[0])


bad.state("wrong")(wrong)


@pytest.mark.parametrize("program", ['.total = "x"', "1", 'error("no")', "][", ".total/0"])
async def test_a_transform_that_fails_is_a_problem(program: str) -> None:
    async with (
        Expressions() as expressions,
        machines_of(bad, expressions=expressions) as machines,
    ):
        await machines.start(bad, "t", Typed(names=[program]))
        assert (await machines.result("t")).startswith("0 transform: ")


async def test_transforms_need_expressions() -> None:
    async with machines_of(bad) as machines:
        await machines.start(bad, "t", Typed(names=["."]))
        with pytest.raises(InstanceFailedError, match="expressions=Expressions"):
            await machines.result("t")


talks = Machine("talks")


@talks.state("a")
def talk(_: Values, wake: Wake) -> Next:
    if isinstance(wake, Entered):
        for number in range(150):
            log(f"entry {number}" + "x" * 2_000, count=number)
        return Sleep(seconds(1))
    log("woke", level="nonsense", much="x" * 10_000)
    return Done()


async def test_the_log_is_bounded_and_each_revision_has_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flowstate.engines.logic")
    async with machines_of(talks) as machines:
        await machines.start(talks, "t")
        await machines.result("t")
        entries = [each async for each in machines.log("t")]

    assert len(entries) == 101
    assert {len(each.text) for each in entries[:100]} == {1_000}
    assert (entries[-1].text, entries[-1].level) == ("woke", "info")
    assert entries[-1].fields == {"left_out": 10_011}
    assert len([each for each in caplog.records if each.name == "flowstate.engines.logic"]) == 151
    assert {
        vars(each)["state_id"] for each in caplog.records if hasattr(each, "machine_state")
    } == {"t"}


def of_states(*names: str) -> Machine:
    made = Machine("deploys")

    async def state(_: Values, wake: Wake) -> Next:
        return Await(Event("go")) if isinstance(wake, Entered) else Done(len(names))

    for name in names:
        made.state(name)(state)
    return made


async def test_a_state_that_is_gone_parks_its_instances_until_it_is_back() -> None:
    async with machines_of(of_states("a", "b")) as machines:
        await machines.start(machines.codes["deploys"], "i")
        await stands(machines, "i", "a")
        newer = type(machines)(machines.engine, [of_states("b", "c")])
        async with newer:
            await newer.publish(event("go"))
            state = await newer.engine.wait_for("i", until=lambda each: "parked" in each.labels)
            assert "has no state 'a' any more" in state.get(str, "parked")
        async with type(machines)(machines.engine, [of_states("a", "c", "d")]) as newest:
            assert await newest.result("i") == 3


async def test_a_check_tells_before_a_deployment_which_instances_it_would_strand() -> None:
    async with machines_of(of_states("a", "b")) as machines:
        await machines.start(machines.codes["deploys"], "i")
        await stands(machines, "i", "a")
        assert not await check(machines.engine, [of_states("a", "c")])
        (stranded,) = (await check(machines.engine, [of_states("b", "c")])).stranded

    assert stranded.ids == ("i",)
    assert "has no state 'a' any more" in stranded.why


def test_nothing_is_run_only_because_a_store_says_so() -> None:
    assert "tests.engines.logic.driving.work" in daily.known
    for name in ("posix.system", "builtins.eval", "subprocess.run", "tests.engines.logic.x"):
        with pytest.raises(MisfitError, match="nothing here is called"):
            find(daily.known, name)


async def old_work() -> str:
    return "done"


async def new_work() -> str:
    return "done"


def of_work(call: Any, *more: Any) -> Machine:
    made = Machine("works", uses=more)

    @made.state("a")
    async def state(_: Values, wake: Wake) -> Next:
        return Done(wake.value) if isinstance(wake, Returned) else Run(call)

    return made


async def test_a_function_that_is_gone_parks_what_is_to_run_it() -> None:
    async with machines_of(of_work(old_work)) as machines:
        await machines.start(machines.codes["works"], "i")
        assert await machines.result("i") == "done"
        (first, *_) = [
            each
            async for each in machines.engine.history("i")
            if b"runs" in bytes(each.values.get("threads", b""))
        ]
        newer = type(machines)(machines.engine, [of_work(new_work)])
        async with newer:
            await newer.fork("i", "j", rev=first.rev)
            state = await newer.engine.wait_for("j", until=lambda each: "parked" in each.labels)
            assert "nothing here is called" in state.get(str, "parked")
        async with type(machines)(machines.engine, [of_work(new_work, old_work)]) as newest:
            assert await newest.result("j") == "done"


async def test_instances_are_listed_by_machine_and_state() -> None:
    async with machines_of(of_states("a", "b")) as machines:
        machine = machines.codes["deploys"]
        for id in ("i", "j"):
            await machines.start(machine, id, labels={"shop": id})
            await stands(machines, id, "a")
        assert await machines.standing(machine) == {"a": 2}
        found = machines.instances(machine, stop="a", labels={"shop": "j"})
        assert [each.id async for each in found] == ["j"]
        await machines.goto("i", "b", by="anna", why="a test")
        await stands(machines, "i", "b")
        assert await machines.standing(machine) == {"a": 1, "b": 1}
        notes = [each.note.by async for each in machines.history("i") if each.note]
        assert notes == ["anna"]


def test_arrived_is_matched_by_position() -> None:
    match Arrived(Event("a", 1)):
        case Arrived(Event(type="a", data=data)):
            assert data == 1


daily = Machine("daily")
hourly = Machine("hourly")
asked = Machine("asked")
pairs = Machine("pairs")


@hourly.starts(every=seconds(3600))
def each_hour(events: list[Event]) -> Values:
    return {"input": f"hourly {len(events)}"}


@asked.starts(Event("a", by="an*"), Event("b"))
def from_one(events: list[Event]) -> Values:
    return {"input": f"{events[0].type} {events[0].data}"}


@pairs.starts(Event("a"), Event("b"), all=True)
def from_both(events: list[Event]) -> Values:
    return {"input": " ".join(str(each.data) for each in events)}


@daily.state("work")
async def daily_work(s: Values, wake: Wake) -> Next:
    return Run(work, s["input"]) if isinstance(wake, Entered) else Done()


for each_machine in (hourly, asked, pairs):
    each_machine.state("work")(daily_work)


async def test_events_start_instances_once_and_only_those_that_are_meant() -> None:
    async with machines_of(asked, pairs) as machines:
        with pytest.raises(InvalidInputError, match="started by events only"):
            await machines.start(asked, "a")
        async with machines.engine.watch(labels={"outcome": "done"}) as states:
            for number, kind in enumerate("aabxab"):
                by = "anna" if number else "otto"
                for _ in range(2):
                    await machines.publish(event(kind, str(number), number, by=by))
            ids = {(await anext(states)).id for _ in range(6)}
        assert len(ids) == 6
    assert sorted(set(shop.did)) == ["0 2", "1 5", "a 1", "a 4", "b 2", "b 5"]
    assert len(shop.did) == 6


async def test_an_interval_starts_instances() -> None:
    async with machines_of(hourly) as machines:
        async with machines.engine.watch(
            labels={"workflow": "hourly", "outcome": "done"}
        ) as states:
            ids = {(await anext(states)).id for _ in range(3)}
        await machines.cancel("flowstate.starter.hourly.each_hour")

    assert all(id.startswith("hourly.each_hour@2030-01-01T0") for id in ids)


async def test_a_schedule_starts_instances() -> None:
    async with machines_of(daily) as machines:
        await machines.schedule("s", daily, "0 0 * * *", "report")
        async with machines.engine.watch(labels={"outcome": "done"}, status=Status.ENDED) as states:
            ids = [(await anext(states)).id for _ in range(3)]
        await machines.unschedule("s")

    assert ids == [f"s@2030-01-0{day}T00:00:00+00:00" for day in (2, 3, 4)]


answers = Machine("answers")


@answers.starts(Event("question"))
def from_question(events: list[Event]) -> Values:
    return {"id": events[0].context["id"]}


@answers.state("wait")
async def wait_for_answer(s: Values, wake: Wake) -> Next:
    return Done([s["id"], wake.event.data]) if isinstance(wake, Arrived) else Await(Event("answer"))


async def test_what_comes_right_after_the_event_that_starts_an_instance_is_not_missed() -> None:
    async with machines_of(answers) as machines:
        await machines.publish(event("answer", "0", "too early"))
        await machines.publish(event("question", "1"))
        await machines.publish(event("answer", "2", "right"))
        labels = {"workflow": "answers", "outcome": "done"}
        async with machines.engine.watch(labels=labels, since_latest=True) as states:
            state = await anext(states)
        assert await machines.result(state.id) == ["1", "right"]
