"""The conformance suite: what every driver must do, for anybody's driver.

A whole test file, with pytest and pytest-asyncio::

    import pytest
    from flowstate.testcases import ALL, Capabilities, run, select
    from my_package import MyDriver

    CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)

    @pytest.mark.parametrize("case", select(ALL, CAPABILITIES), ids=repr)
    async def test_conformance(case, tmp_path):
        await run(case, lambda clock: MyDriver(tmp_path / "store"), CAPABILITIES)

Without a test framework: ``python -m flowstate.testcases package.module:make_store``.
"""

from flowstate.testcases import (
    bad_commands,
    bad_input,
    cancelling,
    commits,
    concurrency,
    data,
    defects,
    delays,
    executions,
    explaining,
    faults,
    firing,
    flows,
    history,
    interruptions,
    leasing,
    lifecycle,
    odd_input,
    patterns,
    queries,
    recovering,
    replays,
    stack,
    stalling,
    watching,
)
from flowstate.testcases.harness import Capabilities, Case, Harness, MakeDriver, case, run, select

__all__ = [
    "ALL",
    "Capabilities",
    "Case",
    "Harness",
    "MakeDriver",
    "THEMES",
    "case",
    "run",
    "select",
]

THEMES: dict[str, tuple[Case, ...]] = {
    "flows": flows.CASES,
    "patterns": patterns.CASES,
    "delays": delays.CASES,
    "firing": firing.CASES,
    "queries": queries.CASES,
    "watching": watching.CASES,
    "interruptions": interruptions.CASES,
    "data": data.CASES,
    "stack": stack.CASES,
    "stalling": stalling.CASES,
    "recovering": recovering.CASES,
    "explaining": explaining.CASES,
    "leasing": leasing.CASES,
    "commits": commits.CASES,
    "history": history.CASES,
    "bad input": bad_input.CASES,
    "bad commands": bad_commands.CASES,
    "odd input": odd_input.CASES,
    "lifecycle": lifecycle.CASES,
    "executions": executions.CASES,
    "concurrency": concurrency.CASES,
    "cancelling": cancelling.CASES,
    "faults": faults.CASES,
    "replays": replays.CASES,
    "defects": defects.CASES,
}
ALL: tuple[Case, ...] = tuple(case for cases in THEMES.values() for case in cases)
