"""The conformance suite: what every driver must do, also one of your own.

A whole test file, with pytest and pytest-asyncio::

    import pytest
    from flowstate.testcases import ALL, Capabilities, run, select
    from my_package import MyDriver

    CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)

    @pytest.mark.parametrize("case", select(ALL, CAPABILITIES), ids=repr)
    async def test_conformance(case, tmp_path):
        await run(case, lambda clock: MyDriver(tmp_path / "store"), CAPABILITIES)

Some cases damage the store or stop its server. They need :class:`Hooks` as a further argument of
``run``, and the capabilities that say so.

Without a test framework: ``python -m flowstate.testcases package.module:make_store``.
"""

from flowstate.testcases import (
    bad_commands,
    bad_input,
    bounds,
    cancelling,
    claims,
    commits,
    concurrency,
    counting,
    damage,
    data,
    deadlines,
    defects,
    delays,
    due,
    effect_keys,
    executions,
    explaining,
    faults,
    firing,
    flows,
    forgetting,
    forgotten_states,
    handing_over,
    history,
    idle,
    interruptions,
    leasing,
    lifecycle,
    mailbox,
    odd_input,
    one_state,
    patterns,
    policies,
    processes,
    queries,
    recovering,
    renaming,
    replays,
    stack,
    stalling,
    standing_still,
    starting,
    stored_timers,
    superseded,
    supervision,
    timers,
    updating,
    values,
    values_kept,
    waiting,
    watching,
)
from flowstate.testcases.harness import (
    Capabilities,
    Case,
    Damage,
    Harness,
    Hooks,
    MakeDriver,
    case,
    run,
    select,
)

__all__ = [
    "ALL",
    "Capabilities",
    "Case",
    "Damage",
    "Harness",
    "Hooks",
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
    "claims": claims.CASES,
    "due": due.CASES,
    "stored timers": stored_timers.CASES,
    "idle": idle.CASES,
    "queries": queries.CASES,
    "one state": one_state.CASES,
    "counting": counting.CASES,
    "watching": watching.CASES,
    "waiting": waiting.CASES,
    "interruptions": interruptions.CASES,
    "data": data.CASES,
    "stack": stack.CASES,
    "stalling": stalling.CASES,
    "deadlines": deadlines.CASES,
    "recovering": recovering.CASES,
    "handing over": handing_over.CASES,
    "explaining": explaining.CASES,
    "leasing": leasing.CASES,
    "commits": commits.CASES,
    "history": history.CASES,
    "forgotten states": forgotten_states.CASES,
    "bad input": bad_input.CASES,
    "bad commands": bad_commands.CASES,
    "odd input": odd_input.CASES,
    "values": values.CASES,
    "bounds": bounds.CASES,
    "damage": damage.CASES,
    "lifecycle": lifecycle.CASES,
    "executions": executions.CASES,
    "updating": updating.CASES,
    "starting": starting.CASES,
    "mailbox": mailbox.CASES,
    "policies": policies.CASES,
    "superseded": superseded.CASES,
    "renaming": renaming.CASES,
    "concurrency": concurrency.CASES,
    "cancelling": cancelling.CASES,
    "faults": faults.CASES,
    "processes": processes.CASES,
    "supervision": supervision.CASES,
    "standing still": standing_still.CASES,
    "replays": replays.CASES,
    "effect keys": effect_keys.CASES,
    "timers": timers.CASES,
    "values kept": values_kept.CASES,
    "forgetting": forgetting.CASES,
    "defects": defects.CASES,
}
ALL: tuple[Case, ...] = tuple(case for cases in THEMES.values() for case in cases)
