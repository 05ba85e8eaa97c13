"""Wherever processes die, tasks hear each event once, and emit each once."""

from collections.abc import Sequence
from typing import Any

import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.kernel.kernel import Kernel
from tests.engines.tasks.exploring import Process, explore_documents

CASES: dict[str, tuple[str | Sequence[str], str]] = {
    "one": ("do: [{a: {listen: {to: {one: {with: {type: a}}}}}}]", "a"),
    "any until": ("do: [{a: {listen: {to: {any: [], until: length == 3}}}}]", "abc"),
    "all": (
        "do: [{a: {listen: {to: {all: [{with: {type: a}}, {with: {type: b}}]}}}}]",
        "cba",
    ),
    "until others": (
        """
        do:
          - a:
              listen: {to: {any: [{with: {type: a}}], until: {one: {with: {type: b}}}}}
              foreach: {do: [{w: {wait: {seconds: 1}}}, {n: {set: {n: "${ $item }"}}}]}
        """,
        "aab",
    ),
    "in a row, correlated": (
        """
        do:
          - a:
              listen:
                to: {one: {with: {type: a}, correlate: {k: {from: .data.k}}}}
              output: {as: ".[0].n"}
          - b:
              listen: {to: {one: {with: {type: b}, correlate: {k: {from: .data.k}}}}}
              output: {as: "[$input, .[0].n]"}
        """,
        "bab",
    ),
    "branches": (
        """
        do:
          - both:
              fork:
                branches:
                  - x: {listen: {to: {one: {with: {type: a}}}}}
                  - y: {listen: {to: {all: [{with: {type: a}}, {with: {type: b}}]}}}
          - last: {listen: {to: {one: {with: {type: a}}}}, output: {as: "[$input, .]"}}
        """,
        "aab",
    ),
    "a race, which must end alike": (
        """
        do:
          - both:
              fork:
                compete: true
                branches:
                  - x: {listen: {to: {one: {with: {type: a}}}}}
                  - y: {listen: {to: {one: {with: {type: never}}}}}
        """,
        "a",
    ),
    "a question and its answer": (
        [
            """
            do:
              - ask: {emit: {event: {with: {type: asked, data: {n: 1}}}}, output: {as: .type}}
              - hear: {listen: {to: {one: {with: {type: told}}}}}
            """,
        ],
        "",
    ),
}


def explored(case: str, most: int) -> None:
    texts, kinds = CASES[case]

    async def client(kernel: Kernel, _: Process) -> None:
        for n, kind in enumerate(kinds):
            await publish(kernel.engine, CloudEvent(str(n), "/x", kind, data={"n": n, "k": 1}))
        if not kinds:
            await answer(kernel)

    explore_documents(texts, None, client, most=most)


async def answer(kernel: Kernel) -> None:
    """Answer each event of a kind, as another program would."""
    async with kernel.engine.watch(labels={"event": "CloudEvent"}, since_rev=0) as states:
        async for state in states:
            asked = state.get(dict[str, Any], "event", default={})
            if asked.get("type") == "asked":
                await publish(kernel.engine, CloudEvent("1", "/x", "told", data=asked["data"]))
                return


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_ends_alike(case: str) -> None:
    explored(case, 12)


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("case", CASES)
def test_it_ends_alike_with_more_crashes(case: str) -> None:
    explored(case, 2_000)
