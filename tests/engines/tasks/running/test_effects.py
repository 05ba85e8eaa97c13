"""Branches, other documents, functions, events and times."""

from collections.abc import Mapping
from typing import Any

import pytest

from flowstate import CommitUnknownError, StoreBusyError
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish, published
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running import emitting
from flowstate.engines.tasks.runtime import Call
from tests.engines.tasks.in_memory import InMemoryDocuments
from tests.engines.tasks.running.driving import Running, document, echo, running


async def sleep(arguments: Mapping[str, Any], call: Call) -> Any:
    await call.runtime.engine.clock.sleep(arguments["seconds"])
    return arguments["seconds"]


async def fail(arguments: Mapping[str, Any], call: Call) -> Any:
    raise TaskError.of("communication", "no answer", status=503)


FUNCTIONS = {"echo": echo, "sleep": sleep, "fail": fail}


async def test_the_error_of_a_branch_ends_the_others_and_is_caught_around_them() -> None:
    text = """
    do:
    - t:
        try:
        - f: {fork: {branches: [{x: {wait: P1D}}, {y: {call: fail}}]}}
        catch: {do: [{c: {set: '${ [$error.status, $error.instance] }'}}]}
    """
    async with running(FUNCTIONS) as tasks:
        expected = [503, "/do/0/t/try/0/f/fork/branches/1/y"]
        assert await tasks.run(text) == expected
        what = {(each.what, each.task.rpartition("/")[2]) for each in await tasks.trail()}
    assert {("cancelled", "x"), ("faulted", "y"), ("faulted", "f"), ("completed", "t")} <= what


@pytest.mark.parametrize("compete", ["true", "false"])
async def test_end_within_a_branch_ends_the_document(compete: str) -> None:
    text = f"""
    do:
    - f:
        fork:
          compete: {compete}
          branches: [{{x: {{wait: P1D}}}}, {{y: {{do: [{{z: {{set: {{v: 1}}, then: end}}}}]}}}}]
    - b: {{set: {{v: wrong}}}}
    """
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text) == {"v": 1}


async def test_branches_that_export_at_once_lose_nothing() -> None:
    branch = "{call: sleep, with: {seconds: 1}, export: {as: '$context + {%s: .}'}}"
    branches = ", ".join(f"{{{name}: {branch % name}}}" for name in "abc")
    text = f"do: [{{f: {{fork: {{branches: [{branches}]}}}}}}, {{c: {{set: '${{ $context }}'}}}}]"
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text) == {"a": 1, "b": 1, "c": 1}


async def test_each_effect_of_a_branch_is_one_commit() -> None:
    calls = (
        f"{{t{number}: {{call: sleep, with: {{seconds: '${{ $item + {number}.5 }}'}}}}}}"
        for number in range(5)
    )
    branch = f"{{do: [{', '.join(calls)}]}}"
    text = f"""
    do:
    - l:
        for: {{in: '[0.25]'}}
        do: [{{f: {{fork: {{branches: [{{x: {branch}}}, {{y: {branch}}}, {{z: {branch}}}]}}}}}}]
    """
    async with running(FUNCTIONS) as tasks:
        await tasks.run(text)
        revisions = [each.rev async for each in tasks.kernel.engine.history("i")]
    assert len(revisions) <= 2 + 3 * 5


async def test_the_input_is_stored_once() -> None:
    text = "do: [{w: {wait: PT1H}}, {l: {do: [{v: {wait: PT1H}}]}}]"
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text, "x" * 100_000) == "x" * 100_000
        async for state in tasks.kernel.engine.history("i"):
            if "result" not in state.values:
                assert sum(len(bytes(each)) for each in state.values.values()) < 110_000


async def test_a_branch_has_the_variables_around_it() -> None:
    text = """
    do:
    - l:
        for: {in: .l}
        do: [{f: {fork: {branches: [{a: {set: '${ [$item, $index] }'}}]}}}]
    """
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text, {"l": [5, 6]}) == [[6, 1]]


async def test_a_timeout_is_caught_around_the_task_and_the_rest_goes_on() -> None:
    text = """
    do:
    - t:
        try: [{a: {do: [{b: {wait: P1D}}], timeout: {after: PT5S}}}]
        catch: {errors: {with: {status: 408}}, do: [{c: {set: '${ $error.instance }'}}]}
    """
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text) == "/do/0/t/try/0/a"


async def test_a_task_that_is_in_time_has_no_timeout() -> None:
    text = "do: [{a: {wait: PT3S, timeout: {after: PT5S}}}, {b: {wait: PT30S}}]"
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text, 1) == 1


EXTENDED = """
use:
  extensions:
  - log:
      extend: %s
      when: %s
      before: [{b: {call: note, with: {text: '${ "before " + $task.name }'}, then: %s}}]
      after: [{a: {call: note, with: {text: '${ "after " + $task.name }'}, then: %s}}]
do:
- one: {set: {v: 1}}
- two: {do: [{three: {call: note, with: {text: called}, output: {as: '{v: .text}'}}}]}
"""


@pytest.mark.parametrize(
    ("extend", "when", "before", "after", "noted", "output"),
    [
        (
            "all",
            "true",
            "continue",
            "continue",
            "before one,after one,before two,before three,called,after three,after two",
            {"v": "called"},
        ),
        (
            "call",
            "true",
            "continue",
            "continue",
            "before three,called,after three",
            {"v": "called"},
        ),
        (
            "composite",
            "true",
            "continue",
            "continue",
            "before two,called,after two",
            {"v": "called"},
        ),
        (
            "all",
            '$task.call == "note"',
            "continue",
            "continue",
            "before three,called,after three",
            {"v": "called"},
        ),
        ("call", "true", "exit", "continue", "before three,after three", {"v": "before three"}),
        (
            "call",
            "true",
            "continue",
            "exit",
            "before three,called,after three",
            {"text": "after three"},
        ),
    ],
)
async def test_extensions(  # noqa: PLR0917 - a table
    extend: str, when: str, before: str, after: str, noted: str, output: Any
) -> None:
    texts: list[str] = []

    async def note(arguments: Mapping[str, Any], call: Call) -> Any:
        texts.append(arguments["text"])
        return arguments

    async with running({"note": note}) as tasks:
        assert await tasks.run(EXTENDED % (extend, f"'{when}'", before, after)) == output
    assert ",".join(texts) == noted


async def test_functions_of_the_document() -> None:
    text = """
    use:
      functions:
        add:
          input: {from: '. + {c: 3}'}
          call: echo
          with: {sum: '${ .a + .b + .c }'}
          output: {as: .sum}
        twice: {do: [{x: {call: add, with: {a: '${ .n }', b: 0}}}, {y: {set: {got: '${ . }'}}}]}
    do:
    - a: {call: add, with: {a: '${ .x }', b: 1}}
    - b: {call: twice, with: {n: '${ . }'}}
    - c: {input: {from: '{n: .got}'}, call: twice, output: {as: .got}}
    """
    async with running(FUNCTIONS) as tasks:
        assert await tasks.run(text, {"x": 2}) == 12
        started = [each.task for each in await tasks.trail() if each.what == "started"]
    assert "/use/functions/twice/do/0/x" in started


CHILD = """
document: {dsl: 1.0.3, namespace: other, name: child, version: 2.0.0}
do: [{a: {call: sleep, with: {seconds: 5}}}, {b: {set: {got: '${ $workflow.input.n }'}}}]
"""


async def test_run_a_document_and_wait_for_it() -> None:
    text = """
    do:
    - r: {run: {workflow: {namespace: other, name: child, version: %s, input: {n: '${ .n }'}}}}
    """
    async with running(FUNCTIONS) as tasks:
        tasks.documents.add(document(CHILD))
        assert await tasks.run(text % "2.0.0", {"n": 7}) == {"got": 7}
        assert await tasks.run(text % "latest", {"n": 8}, id="j") == {"got": 8}
        children = tasks.kernel.engine.states(labels={"parent": "i"}, latest_only=True)
        labels = [each.labels async for each in children]
    assert labels[0]["definition"] == "other/child"
    assert labels[0]["definition_version"] == "2.0.0"


async def test_run_a_document_without_waiting_for_it() -> None:
    text = """
    do: [{r: {run: {await: false, workflow: {namespace: other, name: child, version: 2.0.0}}}}]
    """
    async with running(FUNCTIONS) as tasks:
        tasks.documents.add(document(CHILD))
        assert await tasks.run(text, {"n": 7}) == {"n": 7}
        found = tasks.kernel.engine.states(labels={"definition": "other/child"}, latest_only=True)
        ids = [each.id async for each in found]
        assert len(ids) == 1
        assert await tasks.kernel.result(ids[0], timeout=100.0) == {"got": None}


async def test_the_error_of_another_document_is_raised_here() -> None:
    text = """
    do:
    - t:
        try: [{r: {run: {workflow: {namespace: other, name: child, version: 1.0.0}}}}]
        catch: {do: [{c: {set: '${ [$error.status, $error.instance] }'}}]}
    """
    child = """
    document: {dsl: 1.0.3, namespace: other, name: child, version: 1.0.0}
    do: [{x: {call: fail}}]
    """
    async with running(FUNCTIONS) as tasks:
        tasks.documents.add(document(child))
        assert await tasks.run(text) == [503, "/do/0/t/try/0/r"]


async def test_a_document_that_is_not_there() -> None:
    text = "do: [{r: {run: {workflow: {namespace: other, name: lost, version: latest}}}}]"
    async with running(FUNCTIONS) as tasks:
        assert (await tasks.fails(text)).type.endswith("/configuration")


async def test_emit_gives_the_event() -> None:
    text = """
    do:
    - e: {emit: {event: {with: {source: https://s, type: t.v1, data: {hello: '${ .name }'}}}}}
    """
    async with running() as tasks:
        event = await tasks.run(text, {"name": "Ann"})
    assert (event["source"], event["type"], event["data"]) == (
        "https://s",
        "t.v1",
        {"hello": "Ann"},
    )
    assert {"id", "time", "specversion"} <= event.keys()


def event(number: int) -> CloudEvent:
    return CloudEvent(str(number), "https://s", "t", data={"n": number})


async def publish_to(tasks: Running, *events: CloudEvent) -> None:
    for each in events:
        await publish(tasks.kernel.engine, each)


async def test_an_event_that_comes_before_the_task_listens_is_not_missed() -> None:
    async with running(FUNCTIONS) as tasks:
        await tasks.start("do: [{w: {wait: PT1H}}, {a: {listen: {to: {one: {with: {type: t}}}}}}]")
        await publish_to(tasks, event(1))
        assert await tasks.kernel.result("i", timeout=1e5) == [{"n": 1}]


async def test_tasks_that_run_for_each_event() -> None:
    text = """
    do:
    - a:
        listen: {to: {any: [{with: {type: t}}], until: '(. | length) == 2'}}
        foreach:
          item: e
          at: n
          do: [{s: {call: sleep, with: {seconds: '${ $e.n }'}}}, {t: {set: {v: '${ [$e.n, $n] }'}}}]
          output: {as: .v}
          export: {as: '$context + {("k" + ($n | tostring)): .}'}
    - b: {set: {all: '${ . }', context: '${ $context }'}}
    """
    async with running(FUNCTIONS) as tasks:
        await tasks.start(text)
        await publish_to(tasks, event(1), event(2), event(3))
        assert await tasks.kernel.result("i", timeout=1e5) == {
            "all": [[1, 0], [2, 1]],
            "context": {"k0": [1, 0], "k1": [2, 1]},
        }


async def test_secrets_reach_the_function_and_nothing_else() -> None:
    given: list[Any] = []

    async def login(arguments: Mapping[str, Any], call: Call) -> Any:
        given.append((arguments, call.input))
        if arguments.get("fail"):
            raise TaskError.of("communication", f"wrong: {arguments['token']}")
        return {"echo": arguments, "n": 1}

    text = """
    use: {secrets: [api]}
    do:
    - a: {call: login, with: {token: 'Bearer ${ $secrets.api.token }', user: '${ .user }'}}
    - b:
        if: $secrets.api.token != null
        input: {from: {token: '${ $secrets.api.token }'}}
        call: login
        with: {token: '${ .token }'}
    - t:
        try: [{c: {call: login, with: {token: '${ $secrets.api.token }', fail: true}}}]
        catch: {do: [{d: {set: {text: '${ $error.detail }'}}}]}
    """
    secret = "very-secret-token"  # noqa: S105 - a word of the test
    secrets = MappedSecrets({"api": {"token": secret}})
    async with running({"login": login}, secrets=secrets) as tasks:
        assert await tasks.run(text, {"user": "ann"}) == {"text": "wrong: ***"}
        async for state in tasks.kernel.engine.history("i"):
            assert all(secret not in bytes(each).decode() for each in state.values.values())
    assert given[0][0] == {"token": f"Bearer {secret}", "user": "ann"}
    assert given[1] == ({"token": secret}, {"token": secret})


async def test_a_secret_that_is_not_there() -> None:
    text = "use: {secrets: [lost]}\ndo: [{a: {call: echo, with: {x: '${ $secrets.lost }'}}}]"
    async with running(FUNCTIONS, secrets=MappedSecrets({})) as tasks:
        error = await tasks.fails(text)
    assert (error.type.rpartition("/")[2], error.status) == ("authorization", 403)


async def test_a_result_that_is_too_large_is_an_error_that_can_be_caught() -> None:
    async def large(arguments: Mapping[str, Any], call: Call) -> Any:
        return "x" * 900_000

    text = """
    do: [{t: {try: [{c: {call: large}}], catch: {do: [{d: {set: '${ $error.instance }'}}]}}}]
    """
    async with running({"large": large}) as tasks:
        assert await tasks.run(text) == "/do/0/t/try/0/c"


async def test_data_that_grows_too_large_is_an_error() -> None:
    text = "do: [{a: {set: '${ . + . }', then: a}}]"
    async with running() as tasks:
        assert (await tasks.fails(text, "x" * 1_000)).type.endswith("/runtime")


async def test_a_document_cancels_those_that_it_runs() -> None:
    text = "do: [{r: {run: {workflow: {namespace: other, name: child, version: 2.0.0}}}}]"
    async with running(FUNCTIONS) as tasks:
        tasks.documents.add(document(CHILD.replace("seconds: 5", "seconds: 1000000")))
        await tasks.start(text)
        engine = tasks.kernel.engine
        await engine.wait_for(
            "i", until=lambda each: "outcome" in each.labels or each.rev > 1, timeout=5
        )
        await tasks.kernel.cancel("i")
        with pytest.raises(InstanceCancelledError):
            await tasks.kernel.result("i", timeout=100.0)
        children = engine.states(labels={"parent": "i"}, latest_only=True)
        assert [each.labels.get("outcome") async for each in children] == ["cancelled"]


class Unready(InMemoryDocuments):
    """Documents that cannot be read for some time."""

    refusals = 8

    def get(self, key: str) -> Any:
        return None if self.refusals else super().get(key)

    async def load(self, key: str) -> Any:
        if self.refusals:
            self.refusals -= 1
            raise StoreBusyError
        return await super().load(key)


async def test_a_store_that_refuses_for_some_time_fails_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = iter([StoreBusyError(), CommitUnknownError("t"), StoreBusyError()])

    async def refused(*args: Any, **options: Any) -> bool:
        for error in refusals:
            raise error
        return await publish(*args, **options)

    monkeypatch.setattr(emitting, "publish", refused)
    text = "do: [{tell: {emit: {event: {with: {type: told, data: 1}}}}}]"
    async with running() as tasks:
        unready = Unready()
        tasks.documents = tasks.code.runtime.documents = unready
        event = await tasks.run(text)
        assert event["data"] == 1
        assert await published(tasks.kernel.engine, event["source"], event["id"])
        assert (unready.refusals, next(refusals, None)) == (0, None)
