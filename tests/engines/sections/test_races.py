"""Messages, times and cancellations that meet: each message counts once, and all is torn down."""

import asyncio
import contextlib
from datetime import timedelta
from random import Random

import pytest

from flowstate import FakeClock, InvalidCommandError, RetryPolicy
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.workflow.sections import After, For, Go, On, Sections, Step, Wait, WaitFor
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.sections.bells import Bell, Ringing
from tests.engines.sections.definitions import Data, Note, add, count
from tests.engines.sections.running import in_memory

PASSES = 3


def ring(bell: Bell) -> Sections:
    """Return a workflow of which two threads wait for bells at the same time."""

    def passes(name: str) -> For:
        on = On(
            name, Ringing(bell, RetryPolicy(attempts=9, first=0.5)), Step(f"{name}+", add(name))
        )
        late = After(timedelta(seconds=3), Step(f"{name}-", add("-")))
        again = Step(f"{name}n", count)
        return For(lambda s: s.n < 2 * PASSES, Wait(f"{name}?", on, late), again)

    return Sections(
        "ring",
        Data,
        Go("go", passes("b")),
        passes("a"),
        WaitFor("all", lambda s: s.n >= 2 * PASSES),
    )


async def act(workflows: Workflows, rng: Random, answers: list[str]) -> None:
    """Do something at some time."""
    await workflows.engine.clock.sleep(rng.choice([0.0, 0.5, rng.uniform(0, 9)]))
    with contextlib.suppress(LookupError, InvalidCommandError):
        match rng.choice(
            ["update", "update", "send", "cancel"] if rng.random() < 0.3 else ["update"]
        ):
            case "update":
                text = f"<{rng.getrandbits(32)}>"
                name = rng.choice("ab")
                answers.append(await workflows.update("i", name, Note(text)))
            case "send":
                await workflows.send("i", Note("s"), name=rng.choice("ab"))
            case "cancel":
                await workflows.cancel("i")


@pytest.mark.parametrize("seed", range(60))
async def test_each_message_counts_once_and_all_is_torn_down(seed: int) -> None:
    rng, clock, answers = Random(seed), FakeClock(), list[str]()
    bell = Bell(fails={"setup": rng.randint(0, 3), "teardown": rng.randint(0, 3)})
    code = ring(bell)
    async with in_memory(code, clock=clock) as workflows:
        await workflows.start(code, "i", Data())
        actors = [act(workflows, Random(rng.random()), answers) for _ in range(rng.randint(0, 12))]
        acting = asyncio.gather(*actors)
        with contextlib.suppress(InstanceCancelledError):
            await workflows.result("i", timeout=600)
        await acting
        data = await workflows.query("i")

    assert bell.listening == {}
    assert [data.log.count(text) for text in answers] == [1] * len(answers)
