"""A source of events that outlives processes, and fails when it is told to."""

from typing import Any

import attrs

from flowstate import RetryPolicy
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow.sections import Go, If, On, Sections, Step, Wait
from flowstate.engines.workflow.sources import Source, Subscription
from tests.engines.sections.definitions import Data, Note, add, noted

__all__ = ["Bell", "Ringing", "rung"]


@attrs.define(eq=False)
class Bell:
    """What is outside: who listens, by effect key, and what was done.

    Attributes:
        fails: how many calls of ``setup`` and ``teardown`` fail before one succeeds.
    """

    fails: dict[str, int] = attrs.Factory(dict)
    listening: dict[str, str] = attrs.Factory(dict)
    did: list[str] = attrs.Factory(list)

    def fail(self, what: str) -> None:
        if self.fails.get(what, 0):
            self.fails[what] -= 1
            raise ConnectionError(what)


@attrs.define(eq=False)
class Ringing(Source):
    bell: Bell
    retry: RetryPolicy = attrs.field(default=RetryPolicy(attempts=5, first=0.01))

    async def setup(self, data: Data, subscription: Subscription) -> Any:
        key = effect_key()
        self.bell.listening[key] = f"{subscription.instance} {subscription.name}"
        data.log = "lost"
        self.bell.fail("setup")
        return {"key": key}

    def handle(self, data: Data, note: Note) -> str:
        return noted(data, note).text

    def teardown(self, _data: Data, set_up: Any, handled: bool) -> None:  # type: ignore[override]
        self.bell.fail("teardown")
        if set_up is None:
            self.bell.listening.clear()
        else:
            key = set_up["key"]
            self.bell.listening.pop(key, None)
        self.bell.did.append(f"teardown {handled}")


def rung(bell: Bell, *more: Any, name: str = "rung") -> Sections:
    """Return a workflow that waits for two bells, each in a thread of its own."""
    return Sections(
        name,
        Data,
        Step("s", add("s")),
        If(
            lambda s: s.n == 1,
            Go("go", Wait("other", On("never", Ringing(bell), Step("no", add("!"))))),
        ),
        Wait(
            "wait", On("ring", Ringing(bell), Step("r", add("r"))), On("dull", Ringing(bell)), *more
        ),
        Step("z", add("z")),
    )
