"""Metrics in the text format of Prometheus: counters from the log, and counts by the store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from flowstate import Engine, State, Status
from flowstate.engines.kernel.instance import WORKFLOW
from flowstate.engines.tasks.running.lifecycle import Trails
from flowstate.engines.tasks.service.definitions import DEFINITION
from flowstate.engines.tasks.service.following import follow
from flowstate.engines.tasks.service.instances import CODE

__all__ = ["Metrics"]

LONGEST_AGE = 5.0  # Seconds for which counts by the store serve several scrapes.


class Metrics:
    """Counts what happens in a store from now on, whichever process does it.

    Args:
        engine: open.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._happened: Counter[tuple[str, str, str]] = Counter()
        self._trails, self._began = Trails(), engine.clock.now()
        self._gaps = -1
        self._counts: dict[tuple[str, str], int] = {}
        self._counted_at = float("-inf")

    async def run(self) -> None:
        """Count until the engine stops."""
        await follow(self._engine, {WORKFLOW: CODE}, self._begin, self._see)

    async def _begin(self) -> int:
        self._gaps += 1
        return await self._engine.head()

    def _see(self, state: State) -> None:
        name = state.labels.get(DEFINITION, "")
        for _, each in self._trails.read(state):
            if each.at < self._began:
                continue
            scope = "task" if each.task else "workflow"
            self._happened[name, scope, each.what] += 1

    async def text(self, names: Iterable[str]) -> str:
        """Return all metrics.

        Args:
            names: of the definitions whose instances are counted by the store.
        """
        await self._count({*names})
        stats = msgspec.structs.asdict(self._engine.stats())
        counts = {_labels(definition=d, status=s): n for (d, s), n in self._counts.items()}
        happened = {
            _labels(definition=definition, scope=scope, what=what): n
            for (definition, scope, what), n in self._happened.items()
        }
        lines = [
            *_family("happened_total", "counter", "What happened to tasks.", happened),
            *_family("log_gaps_total", "counter", "Revisions were missed.", {"": self._gaps}),
            *_family("instances", "gauge", "Instances in the store.", counts),
            *_family(
                "engine_total",
                "counter",
                "What the engine of this process counts.",
                {_labels(what=key): value for key, value in stats.items()},
            ),
        ]
        return "\n".join([*lines, ""])

    async def _count(self, names: set[str]) -> None:
        now = self._engine.clock.monotonic()
        if now - self._counted_at < LONGEST_AGE:
            return
        self._counted_at = now
        self._counts = {
            (name, status.value): await self._engine.count(labels={DEFINITION: name}, status=status)
            for name in sorted(names)
            for status in Status
        }


def _labels(**labels: str) -> str:
    escaped = (
        (key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for key, value in labels.items()
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"


def _family(name: str, kind: str, text: str, values: Mapping[str, object]) -> Iterator[str]:
    yield f"# HELP flowstate_tasks_{name} {text}"
    yield f"# TYPE flowstate_tasks_{name} {kind}"
    yield from (f"flowstate_tasks_{name}{labels} {value}" for labels, value in values.items())
