"""An account is ready when it has a disk and a network, and a licence of one kind or the other."""

import itertools

import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.examples.driving import event, example

DISK = event("disk.ready", "a-1", disk="d")
NETWORK = event("network.ready", "a-1", network="n")
BOUGHT, WAIVED = event("licence.bought", "a-1"), event("licence.waived", "a-1")


async def ordered(tasks: Tasks) -> str:
    """Order an account; return the id of the instance that sets it up."""
    async with tasks.engine.watch(labels={"definition": "examples/provisioning"}) as instances:
        await tasks.publish(event("account.ordered", account="a-1"))
        return (await anext(instances)).id


@pytest.mark.parametrize("order", [*itertools.permutations([DISK, NETWORK, WAIVED])])
async def test_parts_may_come_in_any_order(order: tuple[CloudEvent, ...]) -> None:
    async with example("provisioning", autojump=False) as tasks:
        id = await ordered(tasks)
        await tasks.publish(event("disk.ready", "another", disk="no"))
        for each in order:
            await tasks.publish(each)

        assert await tasks.result(id) == {
            "account": "a-1",
            "disk": "d",
            "network": "n",
            "licence": "licence.waived",
        }


async def test_one_licence_is_enough_and_one_part_is_not() -> None:
    async with example("provisioning") as tasks:
        id = await ordered(tasks)
        for each in (DISK, BOUGHT, WAIVED):
            await tasks.publish(each)
        with pytest.raises(TaskError) as raised:
            await tasks.result(id)

        assert raised.value.status == 408
        assert tasks.engine.clock.monotonic() >= 4 * 3600
