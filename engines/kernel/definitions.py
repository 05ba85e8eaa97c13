"""What a process knows of its workflows: codes, and how they are run."""

from collections.abc import Iterable
from random import Random

import attrs

from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.steps import MakeTransaction
from flowstate.retrying import RetryPolicy
from flowstate.tasks import BlockingThreads

__all__ = ["Definitions"]

THREADS = 16


def _codes(codes: Iterable[Code]) -> Codes:
    return codes if isinstance(codes, Codes) else Codes(codes)


@attrs.define(eq=False)
class Definitions:
    """Workflows, and how their steps are run.

    Args:
        codes: of workflows, with all that they use.
        retry: of steps for which neither they nor their workflow say it; ``None``: they fail at
            once.
        transaction: makes a transaction of the store for each step that wants one.
        rng: draws pauses.
        threads: in which plain functions run.
    """

    codes: Codes = attrs.field(converter=_codes)
    retry: RetryPolicy | None = attrs.field(default=None, kw_only=True)
    transaction: MakeTransaction | None = attrs.field(default=None, kw_only=True)
    rng: Random = attrs.field(factory=Random, kw_only=True)
    threads: BlockingThreads = attrs.field(factory=lambda: BlockingThreads(THREADS), kw_only=True)
