"""Each scenario comes out as it says: plainly, wherever processes die, and on each store."""

import asyncio
from collections import ChainMap
from typing import Any

import pytest

from flowstate import SystemClock
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.running.data import TaskData
from tests.engines.stores import STORES, driver_of
from tests.engines.tasks.exploring import Process, explore_documents
from tests.engines.tasks.running.driving import Running, document, running
from tests.engines.tasks.scenarios import Scenario, Service, publish_all, scenarios

ALL = scenarios()


def named(scenario: Scenario) -> str:
    return scenario.name


async def outcome(tasks: Running, scenario: Scenario, id: str = "i") -> Any:
    """Run a scenario and return what comes out."""
    made: Any = None
    for text in reversed(scenario.texts):
        made = document(text)
        if not scenario.unchecked:
            made = await load(text, runtime=tasks.code.runtime)
        tasks.documents.add(made)
    data = TaskData(made.key, scenario.given, tasks.kernel.engine.clock.now())
    await tasks.kernel.start(tasks.code, id, data, {})
    await publish_all(tasks.kernel.engine, scenario, id)
    try:
        return await tasks.kernel.result(id, timeout=None if scenario.long else 60.0)
    except InstanceFailedError as error:
        return error.__cause__


@pytest.mark.parametrize("scenario", ALL, ids=named)
async def test_scenario(scenario: Scenario) -> None:
    service = Service()
    secrets = MappedSecrets(scenario.secrets or {})
    async with running(service.functions, secrets=secrets) as tasks:
        scenario.check(await outcome(tasks, scenario))
        if scenario.trail is not None:
            trail = [f"{each.what} {each.task}".strip() for each in await tasks.trail()]
            assert trail == scenario.trail
        async for state in tasks.kernel.engine.states():
            for secret in (scenario.secrets or {}).values():
                assert secret.encode() not in b"".join(map(bytes, state.values.values()))
    if scenario.acts is not None:
        assert [*service.acts.values()] == scenario.acts


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(each, marks=() if each.explored else pytest.mark.nightly)
        for each in ALL
        if not each.counts
    ],
    ids=named,
)
def test_no_crash_changes_what_comes_out(scenario: Scenario) -> None:
    async def client(kernel: Kernel, _: Process) -> None:
        await publish_all(kernel.engine, scenario)

    explore_documents(
        scenario.texts,
        scenario.given,
        client,
        functions=lambda service: service.functions,
        make_world=Service,
        outside=lambda service: sorted(map(str, service.acts.items())),
        most=8 if scenario.explored else 40,
        secrets=scenario.secrets,
    )


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
async def test_all_scenarios_on_a_store(store: str, request: pytest.FixtureRequest) -> None:
    service = Service()
    secrets = MappedSecrets(ChainMap(*(dict(each.secrets or {}) for each in ALL)))
    async with running(
        service.functions, secrets=secrets, driver=driver_of(store, request), clock=SystemClock()
    ) as tasks:
        short = [each for each in ALL if not each.long and not each.events]
        outcomes = [outcome(tasks, each, str(each.number)) for each in short]
        for scenario, came in zip(short, await asyncio.gather(*outcomes), strict=True):
            scenario.check(came)
        for scenario in ALL:  # Of these, each would see the events of the others.
            if scenario.events and not scenario.long:
                scenario.check(await outcome(tasks, scenario, str(scenario.number)))
