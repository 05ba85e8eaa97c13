"""The steps of the conformance kit: what each says of a document that has run."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import yaml

from flowstate import SystemClock
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.data import Happened, TaskData
from tests.engines.tasks.conformance.features import Feature
from tests.engines.tasks.conformance.sites import sites
from tests.engines.tasks.running.driving import running

__all__ = ["run_feature"]

LONGEST = 30.0  # Seconds that a document may take.


@attrs.define
class Ran:
    """A document that has run.

    Attributes:
        phase: how it has ended.
        output: what it has put out, or the error.
        trail: what has happened in it.
    """

    phase: str
    output: Any
    trail: Sequence[Happened]

    def order(self, what: str = "started") -> list[str]:
        """Return the names of tasks in the order in which that happened to them."""
        return [
            each.task.rpartition("/")[2] for each in self.trail if each.what == what and each.task
        ]

    def of(self, task: str, what: str) -> Happened:
        """Return what has happened to a task."""
        found = [
            each for each in self.trail if each.what == what and each.task.endswith(f"/{task}")
        ]
        assert found, f"{task} is not {what}"
        return found[-1]


def at(value: Any, path: str) -> Any:
    """Return a property by its path, which must be there."""
    for name in path.split("."):
        assert isinstance(value, dict), f"{path}: no object has {name}"
        assert name in value, f"{path}: there is no {name}"
        value = value[name]
    return value


def ends(phase: str) -> Callable[[Ran, str], None]:
    def check(ran: Ran, text: str) -> None:
        assert ran.phase == phase, (ran.phase, ran.output)
        if text:
            assert ran.output == yaml.safe_load(text)

    return check


def has_properties(ran: Ran, _: str, names: str) -> None:
    for name in re.findall(r"'([^']+)'", names):
        at(ran.output, name)


def has_value(ran: Ran, text: str, name: str) -> None:
    assert at(ran.output, name) == yaml.safe_load(text)


def has_items(ran: Ran, _: str, name: str, count: str) -> None:
    assert len(at(ran.output, name)) == int(count)


def is_first(ran: Ran, _: str, task: str) -> None:
    assert ran.order()[0] == task


def is_last(ran: Ran, _: str, task: str) -> None:
    assert ran.order()[-1] == task


def is_before(ran: Ran, _: str, task: str, other: str) -> None:
    assert ran.order().index(task) < ran.order().index(other)


def is_after(ran: Ran, _: str, task: str, other: str) -> None:
    is_before(ran, "", other, task)


def task_ends(what: Any) -> Callable[[Ran, str, str], None]:
    def check(ran: Ran, text: str, task: str) -> None:
        happened = ran.of(task, what)
        if text:
            told = happened.more["error" if what == "faulted" else "output"]
            assert told == yaml.safe_load(text)

    return check


CHECKS: dict[str, Callable[..., None]] = {
    r"the workflow should cancel": ends("cancelled"),
    r"the workflow should complete(?: with output:)?": ends("completed"),
    r"the workflow should fault(?: with error:)?": ends("faulted"),
    r"the workflow output should have properties (.+)": has_properties,
    r"the workflow output should have a '([^']+)' property with value:": has_value,
    r"the workflow output should have a '([^']+)' property containing (\d+) items": has_items,
    r"(\w+) should run first": is_first,
    r"(\w+) should run last": is_last,
    r"(\w+) should run before (\w+)": is_before,
    r"(\w+) should run after (\w+)": is_after,
    r"(\w+) should cancel": task_ends("cancelled"),
    r"(\w+) should complete(?: with output:)?": task_ends("completed"),
    r"(\w+) should fault(?: with error:)?": task_ends("faulted"),
}


async def run_feature(feature: Feature) -> None:
    """Run a scenario.

    Raises:
        AssertionError: it comes out otherwise.
        DocumentError: its document is refused.
    """
    text, given, ran = "", None, None
    for step in feature.steps:
        if step.line == "a workflow with definition:":
            text = step.text
        elif step.line == "given the workflow input is:":
            given = yaml.safe_load(step.text)
        elif step.line == "the workflow is executed":
            ran = await _run(text, given)
        else:
            check(step.line, step.text, ran)


def check(line: str, text: str, ran: Ran | None) -> None:
    assert ran is not None, "nothing was executed"
    for form, holds in CHECKS.items():
        if found := re.fullmatch(form, line):
            holds(ran, text, *found.groups())
            return
    raise AssertionError(f"no step is like: {line}")


async def _run(text: str, given: Any) -> Ran:
    async with sites() as outgoing, running(clock=SystemClock(), outgoing=outgoing) as tasks:
        made = await load(text, runtime=tasks.code.runtime)
        tasks.documents.add(made)
        data = TaskData(made.key, given, tasks.kernel.engine.clock.now())
        await tasks.kernel.start(tasks.code, "i", data, {})
        try:
            phase, output = "completed", await tasks.kernel.result("i", timeout=LONGEST)
        except InstanceFailedError as error:
            assert isinstance(error.__cause__, TaskError), error  # noqa: PT017 - of a document
            phase, output = "faulted", error.__cause__.to_json()
        except InstanceCancelledError:
            phase, output = "cancelled", None
        return Ran(phase, output, await tasks.trail())
