"""The random programs as a state machine of hypothesis, which draws and shrinks them in its way.

Slower by far than :func:`flowstate.testing.run_model`, but what fails comes smaller,
since hypothesis also shrinks what the operations draw. The one module here that needs hypothesis.
"""

import asyncio
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from flowstate.testcases.harness import Capabilities
from flowstate.testing.programs.programs import OPERATIONS, NewStore
from flowstate.testing.programs.reads import inspect
from flowstate.testing.programs.world import World

__all__ = ["model_machine"]

NAMES = [name for name, (weight, _) in OPERATIONS.items() for _ in range(weight)]


def model_machine(new_store: NewStore, capabilities: Capabilities) -> type[RuleBasedStateMachine]:
    """Return a machine that does what it draws to new stores and to the model."""

    class ModelMachine(RuleBasedStateMachine):
        """One program; each rule is one operation."""

        def __init__(self) -> None:
            super().__init__()
            self._runner = asyncio.Runner()
            self._world = World(new_store(), capabilities)

        @initialize()
        def open(self) -> None:
            """Open the store."""
            self._runner.run(self._open())

        async def _open(self) -> None:
            await self._world.__aenter__()

        @rule(name=st.sampled_from(NAMES), rng=st.randoms(use_true_random=False))
        def do(self, name: str, rng: Random) -> None:
            """Do one operation."""
            self._runner.run(self._do(name, rng))

        async def _do(self, name: str, rng: Random) -> None:
            self._world.take_turn()
            await OPERATIONS[name][1](self._world, rng)

        def teardown(self) -> None:
            """Compare everything, and close the store."""
            self._runner.run(self._finish())
            self._runner.close()

        async def _finish(self) -> None:
            try:
                await inspect(self._world, Random(0))  # noqa: S311 - this chance is no secret
            finally:
                await self._world.__aexit__()

    return ModelMachine
