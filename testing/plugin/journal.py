"""What a test has committed, for when it fails."""

from collections import deque
from collections.abc import Sequence

from flowstate.driver import Driver, Verdict, Writes
from flowstate.state import State
from flowstate.testing.plugin.revisions import format_log

__all__ = ["Journal"]

MOST_REVISIONS = 100


class Journal:
    """Notes the revisions that drivers commit."""

    def __init__(self) -> None:
        self._newest: deque[State] = deque(maxlen=MOST_REVISIONS)
        self._count = 0

    def follow(self, driver: Driver) -> None:
        """Note what a driver commits from now on.

        The store may be closed, or its event loop gone, by the time at which a test has failed.
        """
        commit = driver.commit

        async def noting(batch: Sequence[Writes]) -> Sequence[Verdict]:
            verdicts = await commit(batch)
            for verdict in verdicts:
                if isinstance(verdict, tuple):
                    self._newest.extend(verdict)
                    self._count += len(verdict)
            return verdicts

        # Not a wrapper: tests look at the type of their driver, and at more than the contract has.
        driver.commit = noting  # type: ignore[method-assign]

    def text(self) -> str:
        """Return the newest revisions as a table; nothing if there are none."""
        if not self._count:
            return ""
        heading, *rows = format_log(self._newest)
        left_out = self._count - len(rows)
        return "\n".join([heading, *([f"... {left_out} before"] if left_out else []), *rows])
