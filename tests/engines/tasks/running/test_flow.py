"""Time that passes, and loops that do not end."""

from flowstate import SystemClock
from tests.engines.tasks.running.driving import running


async def test_wait_lets_time_pass() -> None:
    async with running() as tasks:
        before = tasks.kernel.engine.clock.now()
        text = (
            "do: [{a: {wait: PT1H30M}}, {b: {wait: {days: 1, seconds: 2}}}, {c: {wait: '${ .d }'}}]"
        )
        assert await tasks.run(text, {"d": "PT1S"}) == {"d": "PT1S"}
        passed = (tasks.kernel.engine.clock.now() - before).total_seconds()
    assert 5_400 + 86_402 + 1 <= passed < 5_400 + 86_402 + 5


async def test_an_endless_loop_can_be_cancelled() -> None:
    async with running(clock=SystemClock()) as tasks:
        await tasks.start("do: [{a: {set: {n: '${ .n + 1 }'}, then: a}}]")
        rev = (await tasks.kernel.engine.get_state("i")).rev
        await tasks.kernel.engine.wait_for("i", until=lambda state: state.rev > rev + 3)
        await tasks.kernel.cancel("i")
        engine = tasks.kernel.engine
        await engine.wait_for("i", until=lambda state: "outcome" in state.labels, timeout=20.0)
        assert [each.what for each in await tasks.trail()][-2:] == ["cancelled"] * 2
