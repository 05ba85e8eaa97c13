"""The conformance suite: what every driver must do, for anybody's driver.

A whole test file, with pytest and pytest-asyncio::

    import pytest
    from flowstate.testcases import ALL, Capabilities, run, select
    from my_package import MyDriver

    CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)

    @pytest.mark.parametrize("case", select(ALL, CAPABILITIES), ids=repr)
    async def test_conformance(case, tmp_path):
        await run(case, lambda clock: MyDriver(tmp_path / "store"), CAPABILITIES)
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

__all__ = ["ALL", "Capabilities", "Case", "Harness", "MakeDriver", "case", "run", "select"]

ALL: tuple[Case, ...] = (
    *flows.CASES,
    *patterns.CASES,
    *delays.CASES,
    *firing.CASES,
    *queries.CASES,
    *watching.CASES,
    *interruptions.CASES,
    *data.CASES,
    *stack.CASES,
    *stalling.CASES,
    *recovering.CASES,
    *leasing.CASES,
    *commits.CASES,
    *history.CASES,
    *bad_input.CASES,
    *bad_commands.CASES,
    *odd_input.CASES,
    *lifecycle.CASES,
    *executions.CASES,
    *concurrency.CASES,
    *cancelling.CASES,
    *faults.CASES,
    *replays.CASES,
    *defects.CASES,
)
