"""Random documents give what a plain reading of the rules gives, wherever processes die."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import yaml

from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function
from tests.engines.tasks.exploring import explore_documents
from tests.engines.tasks.generated import Raises, expected, written
from tests.engines.tasks.running.driving import running

GIVEN = 10


@attrs.define
class Service:
    """Adds once for each key, and falters; outlives the processes."""

    acts: dict[str, Any] = attrs.Factory(dict)
    failed: dict[str, int] = attrs.Factory(dict)

    async def add(self, arguments: Mapping[str, Any], call: Call) -> Any:
        return self.acts.setdefault(call.key, arguments["n"] + arguments["k"])

    async def falter(self, arguments: Mapping[str, Any], call: Call) -> Any:
        if self.failed.get(call.key, 0) < arguments["times"]:
            self.failed[call.key] = self.failed.get(call.key, 0) + 1
            raise TaskError.of("communication", status=503)
        return arguments["n"]

    @property
    def functions(self) -> dict[str, Function]:
        return {"add": self.add, "falter": self.falter}


class Steady(Service):
    """Fails always: how often it was called before a crash makes no difference."""

    async def falter(self, arguments: Mapping[str, Any], call: Call) -> Any:  # noqa: ARG002
        raise TaskError.of("communication", status=503)


async def outcome(seed: int) -> int | str:
    async with running(Service().functions) as tasks:
        try:
            output: int = await tasks.run(yaml.safe_dump(written(seed), sort_keys=False), GIVEN)
        except InstanceFailedError as error:
            if not isinstance(error.__cause__, TaskError):
                raise
            return f"raises {error.__cause__.status}"
        return output


def by_the_rules(seed: int) -> int | str:
    try:
        return expected(written(seed), GIVEN)
    except Raises as error:
        return f"raises {error.args[0]}"


async def check(seeds: range) -> None:
    for seed in seeds:
        assert (seed, await outcome(seed)) == (seed, by_the_rules(seed))


async def test_random_documents() -> None:
    await check(range(12))


@pytest.mark.nightly
async def test_very_many_random_documents() -> None:
    await check(range(12, 3_000))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(300))
def test_no_crash_changes_what_random_documents_do(seed: int) -> None:
    explore_documents(
        yaml.safe_dump(written(seed), sort_keys=False),
        GIVEN,
        functions=lambda service: service.functions,
        make_world=Steady,
        outside=lambda service: sorted(service.acts.items()),
        most=24,
    )
