"""Machines run: their instructions, transitions and conditions do what the page says."""

import contextlib
import re
import sqlite3
import textwrap
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, SystemClock
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.calls.databases import Database
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.runtime import Call, Function, Runtime
from tests.engines.stores import STORES, driver_of
from tests.engines.tasks.documents.loads import HERE
from tests.engines.tasks.in_memory import InMemoryDocuments

OF_STATE = re.compile("/do/[0-9]+/[^/]+").fullmatch
HEAD = """
kind: machine
document: {namespace: test, name: order, version: 1.0.0}
"""


@attrs.define
class Machines:
    """Runs machines in virtual time."""

    kernel: Kernel
    runtime: Runtime
    asked: list[Any]

    async def start(self, text: str, given: Any = None) -> None:
        whole = text if text.startswith("kind:") else HEAD + textwrap.dedent(text)
        made = await load(whole, runtime=self.runtime)
        self.runtime.documents.add(made)  # type: ignore[attr-defined]
        (code,) = self.kernel.codes
        now = self.kernel.engine.clock.now()
        assert await self.kernel.start(code, "i", TaskData(made.key, given, now), {})

    async def run(self, text: str, given: Any = None) -> Any:
        await self.start(text, given)
        return await self.result()

    async def result(self) -> Any:
        return await self.kernel.result("i", timeout=1e8)

    async def error(self) -> TaskError:
        with pytest.raises(InstanceFailedError) as caught:
            await self.result()
        assert isinstance(caught.value.__cause__, TaskError)
        return caught.value.__cause__

    async def passed(self, **units: float) -> None:
        await self.kernel.engine.clock.sleep(timedelta(**units).total_seconds())

    async def tell(self, kind: str, data: Any = None, id: str = "1") -> None:
        await publish(self.kernel.engine, CloudEvent(id, "/test", kind, data=data))

    async def states(self) -> list[str]:
        """Return the states that were entered, by the trail."""
        history = [each async for each in self.kernel.engine.history("i")]
        trail = [each for state in history for each in state.get(TaskData, "data").trail]
        entered = [each.task for each in trail if each.what == "started" and OF_STATE(each.task)]
        return [state_of(each) for each in entered if not each.endswith(".next")]


def state_of(pointer: str) -> str:
    """Return in which state a machine is, by the JSON pointer of the task at which it stands."""
    return pointer.split("/")[3].removesuffix(".next")


@contextlib.asynccontextmanager
async def machines(answers: Any = (), driver: Any = None) -> AsyncIterator[Machines]:
    """Open an engine with a function ``ask`` that gives, or raises, one answer after the other."""
    clock: Any = SystemClock() if driver else FakeClock()
    asked, left = [], list(answers)

    async def ask(arguments: Mapping[str, Any], call: Call) -> Any:
        asked.append((clock.now(), dict(arguments)))
        answer = left.pop(0)
        if isinstance(answer, TaskError):
            raise answer
        return answer

    functions: dict[str, Function] = {"ask": ask}
    async with Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        runtime = Runtime(engine, InMemoryDocuments(), InProcessExpressions(), functions=functions)
        async with Delayer(engine), Kernel(engine, [TaskCode(runtime)]) as kernel:
            yield Machines(kernel, runtime, asked)


RACE = """
start: open
final: [paid, expired]
states:
  open:
    transitions:
      - {to: paid, when: {event: {with: {type: paid, data: ${ .id == 7 }}, as: payment}}}
      - {to: expired, when: {wait: PT10M}}
  paid: {}
  expired: {}
""".replace("${ .id == 7 }", '"${ .id == 7 }"')


async def test_the_first_condition_decides() -> None:
    async with machines() as run:
        await run.start(RACE, {"order": 1})
        await run.passed(minutes=9)
        await run.tell("paid", {"id": 7})
        data = {"order": 1, "payment": {"id": 7}}
        assert await run.result() == {"state": "paid", "data": data}
        assert await run.states() == ["open", "paid"]


async def test_a_wait_decides_when_nothing_came() -> None:
    async with machines() as run:
        await run.start(RACE, {"order": 1})
        await run.tell("paid", {"id": 8})
        assert await run.result() == {"state": "expired", "data": {"order": 1}}
        assert await run.states() == ["open", "expired"]


@pytest.mark.parametrize(
    ("given", "data"), [(None, {}), ({"a": 1}, {"a": 1}), ([1], {"input": [1]}), (0, {"input": 0})]
)
async def test_the_data_is_an_object(given: Any, data: Any) -> None:
    async with machines() as run:
        text = """
            start: one
            final: [two]
            states:
              one: {transitions: [{to: two}]}
              two: {}
            """
        assert await run.run(text, given) == {"state": "two", "data": data}


GUARDS = """
start: check
final: [large, small, odd]
output: {as: .state}
states:
  check:
    transitions:
      - {to: large, if: .n > 10 # not that much
        }
      - {to: small, if: "${ .n < 5 }"}
      - {to: odd, when: {wait: P1D}}
  large: {}
  small: {}
  odd: {}
"""


@pytest.mark.parametrize(("n", "state"), [(11, "large"), (1, "small"), (7, "odd")])
async def test_the_first_transition_that_applies_is_taken(n: int, state: str) -> None:
    async with machines() as run:
        start = run.kernel.engine.clock.now()
        assert await run.run(GUARDS, {"n": n}) == state
        took = run.kernel.engine.clock.now() - start
        assert (took >= timedelta(days=1)) == (state == "odd")


async def test_a_machine_fails_in_a_state_that_no_transition_leaves() -> None:
    async with machines() as run:
        await run.start("""
            start: one
            final: [two]
            states:
              one: {transitions: [{to: two, if: .x}]}
              two: {}
            """)
        error = await run.error()
        assert error.title == "No transition applies"
        assert state_of(error.instance) == "one"


async def test_instructions_are_done_in_their_order_with_what_those_before_gave() -> None:
    async with machines([{"score": 5}, "done", "dropped"]) as run:
        gave = await run.run(
            """
            start: one
            final: [two]
            states:
              one:
                do:
                  - score: {function: {name: ask, with: {id: "${ .id }"}}, as: score}
                  - double: {set: {double: "${ .score.score * 2 }"}}
                  - store: {function: {name: ask, with: {double: "${ .double }"}}, as: stored}
                  - skip: {function: {name: ask}, if: .id == 8, as: skipped}
                  - drop: {function: {name: ask}}
                transitions: [{to: two}]
              two: {}
            """,
            {"id": 7},
        )
        data = {"id": 7, "score": {"score": 5}, "double": 10, "stored": "done"}
        assert gave == {"state": "two", "data": data}
        assert [each for _, each in run.asked] == [{"id": 7}, {"double": 10}, {}]


async def test_a_message_is_published_and_the_data_stays() -> None:
    async with machines() as run:
        assert await run.run(
            """
            start: one
            final: [three]
            states:
              one:
                do: [{tell: {message: {type: told, data: {id: "${ .id }"}}}}]
                transitions: [{to: two}]
              two:
                transitions: [{to: three, when: {event: {with: {type: told}, as: told}}}]
              three: {}
            """,
            {"id": 7},
        ) == {"state": "three", "data": {"id": 7, "told": {"id": 7}}}


POLL = """
start: open
final: [done]
states:
  open:
    transitions:
      - to: done
        when:
          poll:
            function: {name: ask, with: {id: "${ .id }"}}
            until: .status == $data.want
            every: PT5S
            as: answer
            IGNORE
  done: {}
"""
GONE = TaskError.of("communication", "not there", status=404)


async def test_a_poll_asks_until_the_answer_is_the_one() -> None:
    answers = [{"status": "new"}, {"status": "open"}, {"status": "done"}, {"status": "late"}]
    async with machines(answers) as run:
        given = {"id": 7, "want": "done"}
        gave = await run.run(POLL.replace("IGNORE", ""), given)
        assert gave == {"state": "done", "data": {**given, "answer": {"status": "done"}}}
        times = [at for at, _ in run.asked]
        assert [round((at - times[0]).total_seconds()) for at in times] == [0, 5, 10]
        assert all(each == {"id": 7} for _, each in run.asked)


async def test_a_poll_goes_on_after_errors_that_mean_not_yet() -> None:
    async with machines([GONE, GONE, {"status": "done"}]) as run:
        text = POLL.replace("IGNORE", "ignore: {status: 404}")
        gave = await run.run(text, {"id": 7, "want": "done"})
        assert gave["data"]["answer"] == {"status": "done"}
        assert len(run.asked) == 3


async def test_rows_are_written_and_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "shop", isolation_level=None)
    other.execute("create table orders (id integer, state text)")
    async with machines() as run:
        run.runtime.databases = {"shop": Database(f"sqlite:///{tmp_path}/shop")}
        await run.start(
            """
            start: open
            final: [done]
            output: {as: .data.row}
            states:
              open:
                do:
                  - insert:
                      db:
                        database: shop
                        query: insert into orders values (:id, 'open')
                        parameters: {id: "${ .id }"}
                transitions:
                  - to: done
                    when:
                      poll:
                        db:
                          database: shop
                          query: select state from orders where id = :id
                          parameters: {id: "${ .id }"}
                        until: .[0].state == "done"
                        every: PT1M
                        as: row
              done: {}
            """,
            {"id": 7},
        )
        await run.passed(minutes=2)
        assert other.execute("update orders set state = 'done'").rowcount == 1
        assert await run.result() == [{"state": "done"}]
    other.close()


async def test_a_poll_ends_by_any_other_error() -> None:
    async with machines([GONE]) as run:
        await run.start(POLL.replace("IGNORE", "ignore: {status: 503}"), {"id": 7})
        error = await run.error()
        assert (error.status, state_of(error.instance)) == (404, "open")


async def test_a_poll_is_not_met_by_an_answer_that_is_not_there() -> None:
    """``null`` is what the data wants, and it is not what was answered."""
    async with machines([GONE, {"status": None}]) as run:
        text = POLL.replace("IGNORE", "ignore: {status: 404}")
        gave = await run.run(text, {"id": 7, "want": None})
        assert gave["data"]["answer"] == {"status": None}


async def test_an_event_that_comes_early_is_taken_once() -> None:
    async with machines() as run:
        await run.start("""
            start: one
            final: [twice, once, late]
            states:
              one:
                transitions: [{to: two, when: {wait: PT1M}}]
              two:
                transitions:
                  - {to: three, when: {event: {with: {type: a}, as: a}}}
                  - {to: late, when: {wait: PT1H}}
              three:
                transitions:
                  - {to: twice, when: {event: {with: {type: a}}}}
                  - {to: once, when: {wait: PT1H}}
              twice: {}
              once: {}
              late: {}
            """)
        await run.passed(seconds=10)
        await run.tell("a", "early")
        assert await run.result() == {"state": "once", "data": {"a": "early"}}


async def test_an_event_counts_that_only_a_condition_has_taken_that_did_not_decide() -> None:
    async with machines() as run:
        await run.start("""
            start: one
            final: [taken, lost]
            states:
              one:
                transitions:
                  - to: lost
                    when: {all: [{event: {with: {type: a}}}, {event: {with: {type: b}}}]}
                  - {to: two, when: {wait: PT1M}}
              two:
                transitions:
                  - {to: taken, when: {event: {with: {type: a}}}}
                  - {to: lost, when: {wait: PT1H}}
              taken: {}
              lost: {}
            """)
        await run.tell("a")
        assert (await run.result())["state"] == "taken"


COMPOSED = """
start: open
final: [done, late]
states:
  open:
    transitions:
      - to: done
        when:
          all:
            - event: {with: {type: a}, as: a}
            - any:
                - event: {with: {type: b}, as: b}
                - event: {with: {type: c}, as: c}
      - {to: late, when: {wait: PT1H}}
  done: {}
  late: {}
"""


@pytest.mark.parametrize(
    ("told", "state", "data"),
    [
        ("ab", "done", {"a": "A", "b": "B"}),
        ("ca", "done", {"a": "A", "c": "C"}),
        ("bc", "late", {}),
        ("aa", "late", {}),
    ],
)
async def test_conditions_are_composed(told: str, state: str, data: Any) -> None:
    async with machines() as run:
        await run.start(COMPOSED)
        for index, each in enumerate(told):
            await run.passed(minutes=1)
            await run.tell(each, each.upper(), str(index))
        assert await run.result() == {"state": state, "data": data}


async def test_a_machine_fails_when_no_condition_counts_any_more() -> None:
    async with machines() as run:
        await run.start("""
            start: open
            final: [done]
            states:
              open:
                transitions:
                  - {to: done, when: {event: {with: {type: a}}}, timeout: {after: PT1H}}
                  - {to: done, when: {event: {with: {type: b}}}, timeout: {after: PT2H}}
              done: {}
            """)
        start = run.kernel.engine.clock.now()
        error = await run.error()
        assert error.status == 408
        hours = (run.kernel.engine.clock.now() - start) / timedelta(hours=1)
        assert hours == pytest.approx(2, abs=0.1)


async def test_a_condition_still_counts_when_another_one_does_not() -> None:
    async with machines() as run:
        await run.start("""
            start: open
            final: [done]
            states:
              open:
                transitions:
                  - {to: done, when: {event: {with: {type: a}}}, timeout: {after: PT1H}}
                  - {to: done, when: {event: {with: {type: b}, as: b}}, timeout: {after: PT3H}}
              done: {}
            """)
        await run.passed(hours=2)
        await run.tell("a", 1, "1")
        await run.tell("b", 2, "2")
        assert await run.result() == {"state": "done", "data": {"b": 2}}


async def test_a_timeout_of_a_transition_begins_anew_when_its_state_is_entered() -> None:
    async with machines() as run:
        await run.start("""
            start: open
            final: [done]
            states:
              open:
                transitions:
                  - {to: done, when: {event: {with: {type: done}}}, timeout: {after: PT3H}}
                  - {to: pause, when: {wait: PT2H}}
              pause:
                transitions: [{to: open}]
              done: {}
            """)
        await run.passed(hours=6.5)
        await run.tell("done")
        assert (await run.result())["state"] == "done"
        assert await run.states() == [*["open", "pause"] * 3, "open", "done"]


async def test_the_whole_can_have_a_timeout() -> None:
    async with machines() as run:
        await run.start("""
            timeout: {after: PT1H}
            start: open
            final: [done]
            states:
              open:
                transitions:
                  - {to: open, when: {wait: PT7M}}
                  - {to: done, when: {event: {with: {type: done}}}}
              done: {}
            """)
        assert (await run.error()).status == 408
        assert len(await run.states()) == 9


CAUGHT = """
start: pay
final: [paid, refused]
use: {retries: {twice: {delay: PT1S, limit: {attempt: {count: 2}}}}}
states:
  pay:
    do:
      - mark: {set: {marked: true}}
      - charge: {function: {name: ask}, as: receipt, retry: twice}
    transitions: [{to: paid}]
    catch: {errors: {with: {status: 402}}, to: refused}
  paid: {}
  refused: {}
"""
POOR = TaskError.of("runtime", "no money", status=402)


async def test_a_state_that_fails_is_left_with_the_data_with_which_it_was_entered() -> None:
    async with machines([POOR] * 3) as run:
        gave = await run.run(CAUGHT, {"id": 7})
        error = gave["data"].pop("error")
        assert gave == {"state": "refused", "data": {"id": 7}}
        assert error["status"] == 402
        assert state_of(error["instance"]) == "pay"
        assert len(run.asked) == 3
        assert await run.states() == ["pay", "refused"]


async def test_an_instruction_is_tried_again() -> None:
    async with machines([POOR, POOR, "ok"]) as run:
        gave = await run.run(CAUGHT, {"id": 7})
        assert gave == {"state": "paid", "data": {"id": 7, "marked": True, "receipt": "ok"}}


async def test_an_error_that_is_not_caught_ends_the_machine() -> None:
    async with machines([GONE] * 3) as run:
        await run.start(CAUGHT)
        assert (await run.error()).status == 404


async def test_the_place_names_the_state() -> None:
    async with machines() as run:
        await run.start(RACE)
        await run.passed(minutes=1)
        state = await run.kernel.engine.get_state("i")
        assert state_of(state.labels["stop"]) == "open"


async def test_instructions_are_the_calls_of_the_DSL() -> None:  # noqa: N802
    async with machines() as run:
        text = """
            start: one
            final: [two]
            states:
              one:
                do:
                  - a: {http: {method: get, endpoint: https://x}}
                  - b:
                      rpc: {endpoint: https://x, method: m, parameters: {a: 1}}
                      timeout: {after: PT1S}
                transitions:
                  - to: two
                    when: {poll: {rpc: {endpoint: https://x, method: n}, every: PT1S, until: .}}
              two: {}
        """
        made = await load(HEAD + textwrap.dedent(text), runtime=run.runtime)
        one = made.content["do"][0]["one"]["do"]
        a, b = one[0]["a"], one[1]["b"]
        assert (a["call"], a["with"]) == ("http", {"method": "get", "endpoint": "https://x"})
        assert (b["call"], b["with"]["parameters"], b["timeout"]) == (
            "rpc",
            {"a": 1},
            {"after": "PT1S"},
        )
        assert [made.lines[f"/do/0/one/do/{n}"] for n in (0, 1, 2)] == [10, 11, 8]
        branch = "/do/0/one/do/2/next.race/fork/branches/0/two"
        assert [made.lines[branch + each] for each in ("", "/do/0/until")] == [15, 16]


PAGE = HERE.parents[3] / "docs" / "engines" / "tasks" / "machines.md"


@pytest.mark.repository
async def test_the_machine_of_the_page_runs() -> None:
    (text,) = re.findall(
        r"^```yaml\n(kind: machine.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    parcel = [{"status": "packed"}, {"status": "handed over", "number": 5}]
    async with machines(["receipt", *parcel]) as run:
        functions = dict.fromkeys(("charge", "parcel"), run.runtime.functions["ask"])
        run.runtime.functions = functions
        await run.start(text, {"id": 7, "cents": 300})
        await run.passed(minutes=5)
        await run.tell("shop.payment", {"order": 7})
        gave = await run.result()
        assert gave["state"] == "shipped"
        assert gave["data"]["receipt"] == "receipt"
        assert gave["data"]["parcel"]["number"] == 5
        assert await run.states() == ["placed", "paid", "shipped"]


@pytest.mark.parametrize("store", STORES)
async def test_a_machine_runs_on_each_store(store: str, request: pytest.FixtureRequest) -> None:
    answers = [GONE, {"status": "open"}, {"status": "done"}]
    async with machines(answers, driver_of(store, request)) as run:
        text = POLL.replace("IGNORE", "ignore: {status: 404}").replace("PT5S", "PT0.1S")
        told = "told: {transitions: [{to: open, when: {event: {with: {type: a}}}}]}"
        text = text.replace("start: open", "start: told").replace("  open:", f"  {told}\n  open:")
        await run.start(text, {"id": 7, "want": "done"})
        await run.tell("a")
        assert (await run.kernel.result("i", timeout=20))["data"]["answer"] == {"status": "done"}
        assert await run.states() == ["told", "open", "done"]
