"""Errors that are caught, and what is tried again."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
import pytest

from flowstate import StateContext
from flowstate.engines.kernel.starting import flow_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.engines.workflow.operators import retry
from tests.engines.tasks.running.driving import running


@attrs.define
class Service:
    """Fails so many times, then answers; notes keys and times of its calls."""

    failures: int = 10**9
    keys: list[str] = attrs.field(init=False, factory=list)
    times: list[datetime] = attrs.field(init=False, factory=list)

    async def __call__(self, arguments: Mapping[str, Any], call: Call) -> Any:  # noqa: ARG002
        self.keys.append(call.key)
        self.times.append(call.runtime.engine.clock.now())
        if len(self.keys) <= self.failures:
            raise TaskError.of("communication", f"failure {len(self.keys)}", status=503)
        return {"calls": len(self.keys)}

    @property
    def pauses(self) -> list[int]:
        pairs = zip(self.times, self.times[1:], strict=False)
        return [round((after - before).total_seconds()) for before, after in pairs]


def retried(policy: str, more: str = "") -> str:
    return f"do: [{{t: {{try: [{{c: {{call: f}}}}], catch: {{retry: {policy}{more}}}}}}}]"


PAUSES = {
    "at once": ("{limit: {attempt: {count: 3}}}", [0, 0, 0]),
    "a delay": ("{delay: {seconds: 3}, limit: {attempt: {count: 3}}}", [3, 3, 3]),
    "constant": ("{delay: PT3S, backoff: {constant: {}}, limit: {attempt: {count: 3}}}", [3, 3, 3]),
    "linear": ("{delay: PT3S, backoff: {linear: {}}, limit: {attempt: {count: 3}}}", [3, 6, 9]),
    "exponential": (
        "{delay: PT3S, backoff: {exponential: {}}, limit: {attempt: {count: 4}}}",
        [3, 6, 12, 24],
    ),
    "a limit of time": ("{delay: PT3S, limit: {duration: PT10S}}", [3, 3, 3]),
    "when": ("{when: '$error.detail != \"failure 2\"', limit: {attempt: {count: 9}}}", [0]),
    "exceptWhen": ("{exceptWhen: '$error.detail == \"failure 3\"'}", [0, 0]),
}


@pytest.mark.parametrize("name", PAUSES)
async def test_pauses_between_attempts(name: str) -> None:
    policy, pauses = PAUSES[name]
    service = Service()
    async with running({"f": service}) as tasks:
        error = await tasks.fails(retried(policy))
    assert service.pauses == pauses
    assert (error.status, error.instance) == (503, "/do/0/t/try/0/c")
    assert set(service.keys) == {"i/0.0.0/do/0/t/try/0/c"}  # One effect, over all attempts.


async def test_jitter() -> None:
    service = Service()
    policy = "{delay: PT10S, jitter: {from: PT5S, to: PT50S}, limit: {attempt: {count: 9}}}"
    async with running({"f": service}) as tasks:
        await tasks.fails(retried(policy))
    assert all(15 <= pause <= 60 for pause in service.pauses)
    assert len(set(service.pauses)) > 3


async def test_a_policy_by_name_and_success_at_last() -> None:
    text = "use: {retries: {r: {delay: PT1S}}}\n" + retried("r")
    async with running({"f": Service(2)}) as tasks:
        assert await tasks.run(text) == {"calls": 3}
        retries = [each for each in await tasks.trail() if each.what == "retried"]
    assert [(each.task, each.more["attempt"]) for each in retries] == [
        ("/do/0/t", 1),
        ("/do/0/t", 2),
    ]


async def test_what_is_done_when_no_attempt_is_left() -> None:
    text = retried("{limit: {attempt: {count: 1}}}", ", do: [{h: {set: '${ $error.detail }'}}]")
    async with running({"f": Service()}) as tasks:
        assert await tasks.run(text) == "failure 2"


async def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    times = []

    async def slow(arguments: Mapping[str, Any], call: Call) -> Any:
        times.append(call.runtime.engine.clock.now())
        if len(times) < 3:
            await call.runtime.engine.clock.sleep(1e6)
        return len(times)

    async with running({"f": slow}) as tasks:
        assert await tasks.run(retried("{limit: {attempt: {duration: PT5S}}}")) == 3
    assert [round((at - times[0]).total_seconds()) for at in times] == [0, 5, 10]


async def test_an_attempt_begins_with_the_input_of_the_try() -> None:
    text = """
    do:
    - t:
        try: [{a: {set: {n: '${ .n + 1 }'}}}, {c: {call: f, output: {as: $input.n}}}]
        catch: {retry: {}}
    """
    async with running({"f": Service(3)}) as tasks:
        assert await tasks.run(text, {"n": 0}) == 1


async def test_each_pass_of_a_loop_has_keys_of_its_own() -> None:
    service = Service(1)
    text = """
    do:
    - l:
        for: {in: .l}
        do: [{t: {try: [{c: {call: f}}], catch: {retry: {}}}}]
    """
    async with running({"f": service}) as tasks:
        await tasks.run(text, {"l": [1, 2]})
    assert len(service.keys) == 3
    assert len(set(service.keys)) == 2


async def test_an_operator_tries_again_under_the_same_key() -> None:
    service = Service(1)
    async with running({"f": service}) as tasks:
        await tasks.fails("do: [{a: {set: {v: 1}}}, {c: {call: f}}]")
        ctx = StateContext(await tasks.kernel.engine.get_state("i"))
        retry(ctx, tasks.kernel.codes)
        await tasks.kernel.engine.start(ctx, flow_of("tasks"))
        assert await tasks.kernel.result("i") == {"calls": 2}
    assert len(set(service.keys)) == 1


async def test_an_error_without_a_kind_is_one_of_the_runtime() -> None:
    async def broken(arguments: Mapping[str, Any], call: Call) -> Any:
        raise KeyError("lost")

    async with running({"f": broken}) as tasks:
        error = await tasks.fails("do: [{c: {call: f}}]")
    assert (error.type.rpartition("/")[2], error.status) == ("runtime", 500)
    assert "lost" in error.detail


@pytest.mark.parametrize("host", ["serverlessworkflow.io", "open-workflow-specification.org"])
@pytest.mark.parametrize("path", ["spec/1.0.0/errors", "dsl/errors/types"])
async def test_an_error_is_caught_by_any_spelling_of_its_type(host: str, path: str) -> None:
    wanted = f"{{with: {{type: 'https://{host}/{path}/communication', status: 503}}}}"
    text = f"do: [{{t: {{try: [{{c: {{call: f}}}}], catch: {{errors: {wanted}}}}}}}]"
    async with running({"f": Service()}) as tasks:
        assert await tasks.run(text, {"a": 1}) == {"a": 1}


async def test_a_cancel_is_not_caught() -> None:
    text = "do: [{t: {try: [{w: {wait: P1D}}], catch: {do: [{c: {set: {v: 1}}}]}}}]"
    async with running() as tasks:
        await tasks.start(text)
        await tasks.kernel.engine.wait_for(
            "i", until=lambda each: each.labels["stop"] == "/do/0/t/try/0/w"
        )
        await tasks.kernel.cancel("i")
        state = await tasks.kernel.engine.wait_for("i", until=lambda each: "outcome" in each.labels)
        assert state.labels["outcome"] == "cancelled"
        cancelled = [each.task for each in await tasks.trail() if each.what == "cancelled"]
    assert cancelled == ["/do/0/t/try/0/w", "/do/0/t", ""]
