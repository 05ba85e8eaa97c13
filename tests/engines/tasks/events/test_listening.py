"""Tasks that listen for events: each strategy, filter and way to read, in every order."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from tests.engines.kernel.running import stands
from tests.engines.tasks.running.driving import Running, running

LISTEN = "/do/0/hear"


@pytest.fixture
async def tasks() -> AsyncIterator[Running]:
    async with running() as made:
        yield made


def event(id: str, kind: str = "a", data: Any = None, **more: Any) -> CloudEvent:
    return CloudEvent(id, "/test", kind, data={"n": id} if data is None else data, **more)


async def send(tasks: Running, *events: CloudEvent) -> None:
    for each in events:
        await publish(tasks.kernel.engine, each)


async def heard(
    tasks: Running, text: str, *events: CloudEvent, given: Any = None, before: bool = False
) -> Any:
    """Return the output of a document after some events, sent before it listens or after."""
    await tasks.start(text, given)
    if not before:
        await stands(tasks.kernel, "i", LISTEN)
    await send(tasks, *events)
    return await tasks.kernel.result("i", timeout=60.0)


def listening(to: str, more: str = "", tail: str = "") -> str:
    return f"do: [{{hear: {{listen: {{to: {to}{more}}}{tail}}}}}]"


ONE = "{one: {with: {type: a}}}"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("to", "kinds", "expected"),
    [
        (ONE, "ba", "1"),
        ("{any: [{with: {type: a}}, {with: {type: b}}]}", "cb", "1"),
        ("{any: []}", "x", "0"),
        ("{any: [{with: {type: a}}], until: 'length == 3'}", "abaa", "023"),
        ("{any: [], until: '${ (. | length) > 2 }'}", "abca", "012"),
        ("{any: [{with: {type: a}}], until: {one: {with: {type: end}}}}", "aabe", "01"),
        ("{any: [], until: {all: [{with: {type: e}}, {with: {type: f}}]}}", "axfbeg", "013"),
        ("{any: [], until: {any: [{with: {type: e}}, {with: {type: f}}]}}", "axf", "01"),
        ("{all: []}", "", ""),
    ],
)
async def test_strategies(tasks: Running, to: str, kinds: str, expected: str, before: bool) -> None:
    names = {"e": "end"} if "type: end" in to else {}
    events = [event(str(n), names.get(kind, kind)) for n, kind in enumerate(kinds)]
    if not events:
        assert await tasks.run(listening(to)) == []
        return
    assert await heard(tasks, listening(to), *events, before=before) == [{"n": n} for n in expected]


@pytest.mark.parametrize("order", [*permutations("aab")])
@pytest.mark.parametrize("sent_before", [0, 1, 2, 3])
async def test_all_in_every_order(tasks: Running, order: str, sent_before: int) -> None:
    text = listening("{all: [{with: {type: a}}, {with: {type: b}}, {with: {type: a}}]}")
    events = [event(f"{kind}{n}", kind) for n, kind in enumerate(order)]
    await tasks.start(text)
    await send(tasks, *events[:sent_before])
    if sent_before < 3:
        await stands(tasks.kernel, "i", LISTEN)
    await send(tasks, *events[sent_before:])

    assert await tasks.kernel.result("i") == [{"n": each.id} for each in events]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("data", [{"n": 1}, "text", "AAE=", None]),
        ("raw", ['{"n":1}', "text", "AAE=", None]),
        ("envelope", None),
    ],
)
async def test_how_events_are_read(tasks: Running, read: str, expected: Any) -> None:
    datas = [{"n": 1}, "text", b"\0\1"]
    events = [CloudEvent(str(n), "/s", "a", data=data) for n, data in enumerate(datas)]
    events.append(CloudEvent("3", "/s", "a", subject="x"))
    text = listening("{any: [], until: length == 4}", f", read: {read}")

    assert await heard(tasks, text, *events) == expected or [each.to_json() for each in events]


@pytest.mark.parametrize(
    ("condition", "met", "missed"),
    [
        ("type: 'a.*b'", {"kind": "a.xx.b"}, {"kind": "a.x"}),
        ("type: a.b", {"kind": "a.b"}, {"kind": "axb"}),
        ("subject: '${ .order }'", {"subject": "o-7"}, {"subject": "o-8"}),
        ("subject: 'x/${ .order }'", {"subject": "x/o-7"}, {"subject": "o-7"}),
        ("subject: '${ startswith(\"o\") }'", {"subject": "o-7"}, {"subject": "x"}),
        ("subject: '${ . == $input.order }'", {"subject": "o-7"}, {}),
        ("region: eu", {"extensions": {"region": "eu"}}, {"extensions": {"region": "us"}}),
        ("count: '${ .n }'", {"extensions": {"count": 3}}, {"extensions": {"count": 4}}),
        ("data: '${ .n > $input.n }'", {"data": {"n": 4}}, {"data": {"n": 3}}),
        ("data: '${ .n.x > 1 }'", {"data": {"n": {"x": 2}}}, {"data": {"n": 3}}),
        ("data: {order: '${ .order }'}", {"data": {"order": "o-7", "x": 1}}, {"data": {"x": 1}}),
        ("data: [1, 2]", {"data": [1, 2]}, {"data": [1, 2, 3]}),
        ("data: plain", {"data": "plain"}, {"data": "pl.*"}),
        ("source: /test", {}, None),
        ("id: met", {}, {}),
    ],
)
async def test_filters(tasks: Running, condition: str, met: Any, missed: Any) -> None:
    given = {"order": "o-7", "n": 3}
    events = [] if missed is None else [event("missed", **missed)]
    text = listening(f"{{one: {{with: {{{condition}}}}}}}", ", read: envelope")
    [found] = await heard(tasks, text, *events, event("met", **met), given=given)

    assert found["id"] == "met"


CORRELATED = """
do:
  - hear:
      listen:
        to:
          all:
            - with: {type: a}
              correlate: {order: {from: .data.order}}
            - with: {type: b}
              correlate: {order: {from: .data.order}}
  - again:
      listen:
        to:
          one:
            with: {type: c}
            correlate: {order: {from: .data.order}}
  - other:
      listen:
        to:
          one:
            with: {type: c}
            correlate: {order: {from: .data.order, expect: "${ .[0].next }"}}
"""


async def test_events_correlate_over_a_task_and_over_the_instance(tasks: Running) -> None:
    def made(id: str, kind: str, order: int, **more: Any) -> CloudEvent:
        return event(id, kind, {"order": order, **more})

    await tasks.start(CORRELATED)
    await send(tasks, made("1", "a", 1), made("2", "b", 2), made("3", "c", 1, next=3))
    await send(tasks, made("4", "c", 3, last=True), made("5", "b", 1))

    assert await tasks.kernel.result("i", timeout=60.0) == [{"order": 3, "last": True}]
    whole = [(each.what, each.more) for each in await tasks.trail() if not each.task]
    keys = [more["correlationKeys"] for what, more in whole if what == "correlation-completed"]
    assert keys == [{"order": 1}, {"order": 1}, {"order": 3}]
    assert [what for what, _ in whole].count("correlation-started") == 3


async def test_what_was_sent_before_the_start_is_not_heard(tasks: Running) -> None:
    await send(tasks, event("0"))
    assert await heard(tasks, listening(ONE), event("1")) == [{"n": "1"}]


@pytest.mark.parametrize("before", [True, False])
async def test_listens_in_a_row_and_in_a_loop_hear_each_event_once(
    tasks: Running, before: bool
) -> None:
    text = """
    do:
      - hear: {listen: {to: {one: {with: {type: b}}}}, output: {as: "[.[0].n]"}}
      - loop:
          for: {in: "[1, 2]"}
          do:
            - again:
                listen: {to: {one: {with: {type: a}}}}
                output: {as: "$input + [.[0].n]"}
      - last: {listen: {to: {any: []}}, output: {as: "$input + [.[0].n]"}}
    """
    events = [event("1"), event("2"), event("3", "c"), event("4", "b")]

    assert await heard(tasks, text, *events, before=before) == ["4", "1", "2", "3"]


FORK = """
do:
  - both:
      fork:
        branches:
          - one: {listen: {to: {one: {with: {type: a}}}}, output: {as: ".[0].n"}}
          - two:
              do:
                - first: {listen: {to: {one: {with: {type: a}}}}, output: {as: "[.[0].n]"}}
                - second:
                    listen: {to: {one: {with: {type: a}}}}
                    output: {as: "$input + [.[0].n]"}
  - then: {listen: {to: {one: {with: {type: a}}}}, output: {as: "$input + [.[0].n]"}}
"""


async def test_branches_hear_the_same_events_and_what_follows_hears_the_rest(
    tasks: Running,
) -> None:
    await tasks.start(FORK)
    await send(tasks, *[event(n) for n in "123"])

    assert await tasks.kernel.result("i", timeout=60.0) == ["1", ["1", "2"], "3"]


EACH = """
do:
  - hear:
      listen:
        to: {any: [{with: {type: a}}], until: %s}
      foreach:
        item: heard
        at: number
        do:
          - wait: {wait: {seconds: 1}}
          - note: {set: {text: '${ "\\($number) \\($heard.n)" }'}}
        output: {as: .text}
        export: {as: '$context + {last: $heard.n, count: (($context.count // 0) + 1)}'}
  - tell: {set: {heard: "${ . }", context: "${ $context }"}}
"""


@pytest.mark.parametrize(
    "until", ["length == 3", "$context.count == 3", "{one: {with: {type: end}}}"]
)
@pytest.mark.parametrize("before", [True, False])
async def test_tasks_run_for_each_event(tasks: Running, until: str, before: bool) -> None:
    text = EACH % (until if until.startswith("{") else f"'{until}'")
    events = [*map(event, "123"), event("4", "end"), event("5")]

    assert await heard(tasks, text, *events, before=before) == {
        "heard": ["0 1", "1 2", "2 3"],
        "context": {"last": "3", "count": 3},
    }


async def test_many_events_for_each_of_which_tasks_run(tasks: Running) -> None:
    text = """
    do:
      - hear:
          listen: {to: {any: [], until: length == 120}}
          foreach: {output: {as: .n}}
    """
    events = [event(str(n)) for n in range(120)]

    assert await heard(tasks, text, *events) == [str(n) for n in range(120)]


async def test_a_long_loop_hears_each_event_once_and_looks_at_few(tasks: Running) -> None:
    text = """
    do:
      - loop:
          for: {in: "[range(60)]"}
          do: [{hear: {listen: {to: {one: {with: {type: a}}}}, output: {as: "[.[0].n]"}}}]
    """
    await tasks.start(text)
    await send(tasks, *[event(str(n)) for n in range(60)])

    assert await tasks.kernel.result("i", timeout=60.0) == ["59"]
    assert len([each async for each in tasks.kernel.engine.history("i")]) <= 65


async def test_it_times_out(tasks: Running) -> None:
    text = listening("{any: [], until: 'length == 3'}", tail=", timeout: {after: {seconds: 10}}")
    await tasks.start(text)
    clock: Any = tasks.kernel.engine.clock
    for n in "12":
        await clock.sleep(4)
        await send(tasks, event(n))
    began = clock.monotonic()
    await clock.sleep(1)
    error = await tasks.fails(text, id="j")

    assert error.type.endswith("/timeout")
    assert error.instance == LISTEN
    assert timedelta(seconds=clock.monotonic() - began) < timedelta(seconds=12)


async def test_a_paused_instance_hears_later_and_a_cancelled_one_nothing(tasks: Running) -> None:
    await tasks.start(listening("{any: [], until: length == 2}"))
    await stands(tasks.kernel, "i", LISTEN)
    await tasks.kernel.pause("i")
    await send(tasks, event("1"), event("2"))
    await tasks.kernel.resume("i")
    assert await tasks.kernel.result("i") == [{"n": "1"}, {"n": "2"}]

    await tasks.start(listening(ONE), id="j")
    await stands(tasks.kernel, "j", LISTEN)
    await tasks.kernel.cancel("j")
    await tasks.kernel.engine.wait_for("j", until=lambda each: "outcome" in each.labels)
    await send(tasks, event("3"))
    assert not [
        key for key in (await tasks.kernel.engine.get_state("j")).labels if key.startswith("awaits")
    ]


async def test_one_that_gathers_without_end_fails_at_a_bound(tasks: Running) -> None:
    await tasks.start(listening("{any: [], until: length > 100}"))
    for n in range(6):
        await send(tasks, event(str(n), data="x" * 100_000))
    with pytest.raises(Exception, match="gather") as raised:
        await tasks.kernel.result("i")
    assert "runtime" in str(raised.value.__cause__)


async def test_one_that_never_ends_keeps_nothing(tasks: Running) -> None:
    text = """
    do:
      - hear:
          listen: {to: {any: [], until: '${ false }'}}
          foreach: {do: [{out: {set: {n: "${ $item.n }"}}}]}
    """
    await tasks.start(text)
    for n in range(10):
        await send(tasks, event(str(n), data={"n": "x" * 60_000}))
    await tasks.kernel.engine.idle()
    await asyncio.sleep(0)
    state = await stands(tasks.kernel, "i", LISTEN)
    assert sum(len(bytes(raw)) for raw in state.values.values()) < 250_000


EMIT = """
do:
  - tell:
      emit: {event: {with: {type: told, subject: "${ .name }", data: {n: "${ .n }"}}}}
  - hear:
      listen: {to: {one: {with: {type: answer, subject: "${ .subject }"}}}}
"""


async def test_an_event_that_is_emitted_is_heard_and_the_answer_is_not_missed(
    tasks: Running,
) -> None:
    answering = """
    do:
      - hear: {listen: {to: {one: {with: {type: told}}}, read: envelope}}
      - tell:
          emit:
            event:
              with: {type: answer, source: /me, id: x1, subject: "${ .[0].subject }", region: eu}
    """
    await tasks.start(answering, id="other")
    tasks_text = EMIT.replace("answer,", "answer,")
    await stands(tasks.kernel, "other", LISTEN)
    other = await tasks.kernel.engine.get_state("other")
    assert other.labels["stop"] == LISTEN

    await tasks.start(
        "document: {dsl: 1.0.3, namespace: test, name: asking, version: 1.0.0}\n" + tasks_text,
        {"name": "anna", "n": 5},
    )
    assert await tasks.kernel.result("i", timeout=60.0) == [None]
    answer = await tasks.kernel.result("other")
    assert answer["time"]
    del answer["time"]
    assert answer == {
        "specversion": "1.0",
        "id": "x1",
        "source": "/me",
        "type": "answer",
        "subject": "anna",
        "region": "eu",
    }


async def test_what_an_emitted_event_is_by_default(tasks: Running) -> None:
    gave = await tasks.run("do: [{tell: {emit: {event: {with: {type: told, data: 5}}}}}]")
    [state] = [
        each async for each in tasks.kernel.engine.states(labels={"emitted": "i"}, latest_only=True)
    ]

    assert state.get(dict[str, Any], "event") == gave
    assert gave["source"] == "/test/test/i"
    assert gave["id"].startswith("i/")
    error = await tasks.fails("do: [{tell: {emit: {event: {with: {data: 5}}}}}]", id="j")
    assert error.type.endswith("/validation")
    assert error.instance == "/do/0/tell"
