"""Generated workflows find what is planted."""

from collections.abc import Callable
from itertools import count

import pytest

from flowstate.engines.kernel import errors, instance, progress
from flowstate.engines.kernel.code import At, Frame, Reached
from flowstate.engines.kernel.threads import Thread
from flowstate.engines.kernel.waiting import Waiting
from flowstate.engines.workflow.compiler.compiled import Compiled
from tests.engines.generated.crashing import compare

pytestmark = pytest.mark.nightly

PROGRAMS = 60

Plant = Callable[[pytest.MonkeyPatch], None]


def keys_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = Thread.leave_stop

    def leaving(self: Thread) -> None:
        passed = self.passed
        leave(self)
        self.passed = passed + passed % 2

    monkeypatch.setattr(Thread, "leave_stop", leaving)


def messages_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    take, taken = Waiting.take, count()

    def taking(self: Waiting, *args: object) -> None:
        if next(taken) % 3:
            take(self, *args)  # type: ignore[arg-type] # as they come

    monkeypatch.setattr(Waiting, "take", taking)


def data_is_stored_late(monkeypatch: pytest.MonkeyPatch) -> None:
    change = instance.change

    def changing(ctx: object, values: dict[str, object], labels: object) -> None:
        values = {name: raw for name, raw in values.items() if name != "data"}
        change(ctx, values, labels)  # type: ignore[arg-type] # as they come

    monkeypatch.setattr(instance, "change", changing)


def causes_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = errors.restored

    def restoring(error: object) -> BaseException:
        found = restored(error)  # type: ignore[arg-type] # as it comes
        found.__cause__ = None
        return found

    monkeypatch.setattr(progress, "restored", restoring)


def places_of_loops_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Compiled.go_on

    def going_on(self: Compiled, frame: Frame, *args: object) -> Reached:
        reached = go_on(self, frame, *args)  # type: ignore[arg-type] # as they come
        if isinstance(reached, At) and len(reached.frame.place) > 1:
            return At(Frame(frame.code, reached.frame.stop, reached.frame.names))
        return reached

    monkeypatch.setattr(Compiled, "go_on", going_on)


def compare_many() -> None:
    for seed in range(PROGRAMS):
        compare(seed)


@pytest.mark.parametrize(
    "plant",
    [
        keys_are_used_again,
        messages_are_lost,
        data_is_stored_late,
        causes_are_lost,
        places_of_loops_are_lost,
    ],
)
def test_it_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    with pytest.raises(AssertionError):
        compare_many()
