"""Random documents over whole numbers, and what comes of each by a plain reading of the rules."""

from random import Random
from typing import Any

import attrs

__all__ = ["Ends", "Raises", "Written", "expected", "written"]

DEEPEST = 4
STATUS = (503, 409)


class Raises(Exception):  # noqa: N818 - the document does
    """A task has raised an error with a status."""


class Ends(Exception):  # noqa: N818 - it is no error
    """A task has ended the document with an output."""


@attrs.define
class Written:
    """Writes a document."""

    rng: Random
    names: int = 0
    forks: int = 0  # Around the task: the time says which branch ends the document first.

    def tasks(self, depth: int, *, free: bool) -> list[dict[str, Any]]:
        """Return a list of tasks; free ones may raise errors and end the document."""
        tasks = [
            {self._name(): self._task(depth, free=free)} for _ in range(self.rng.randint(1, 3))
        ]
        for index, task in enumerate(tasks):
            (definition,) = task.values()
            later = [next(iter(each)) for each in tasks[index + 1 :]]
            if "switch" in definition:
                for case in definition["switch"]:
                    next(iter(case.values()))["then"] = self._then(later, free=free)
            elif self.rng.random() < 0.2:
                definition["then"] = self._then(later, free=free)
        return tasks

    def _name(self) -> str:
        self.names += 1
        return f"t{self.names}"

    def _then(self, later: list[str], *, free: bool) -> str:
        choices = [*later, "continue", "exit", *(["end"] if free and not self.forks else [])]
        return self.rng.choice(choices)

    def _task(  # noqa: C901, PLR0912 - a table
        self, depth: int, *, free: bool
    ) -> dict[str, Any]:
        rng, inner = self.rng, depth + 1
        kinds = ["set", "add", "wait"] + ["raise", "fail"] * free
        if depth < DEEPEST:
            kinds += ["do", "for", "try", "fork", "switch"] * 2
        kind, number = rng.choice(kinds), rng.randint(1, 5)
        task: dict[str, Any]
        match kind:
            case "set":
                task = {"set": f"${{ . * {number} % 97 }}"}
            case "add":
                task = {"call": "add", "with": {"n": "${ . }", "k": number}}
            case "fail":
                task = {"call": "falter", "with": {"n": "${ . }", "times": rng.randint(1, 3)}}
            case "wait":
                task = {"wait": {"seconds": number}}
            case "raise":
                error = {"type": "https://x/e", "status": rng.choice(STATUS)}
                task = {"raise": {"error": error}}
            case "do":
                task = {"do": self.tasks(inner, free=free)}
            case "for":
                items = [rng.randint(0, 9) for _ in range(rng.randint(0, 3))]
                added = {self._name(): {"set": "${ . + $item }"}}
                task = {"for": {"in": str(items)}, "do": [added, *self.tasks(inner, free=free)]}
                if rng.random() < 0.3:
                    task["while"] = ". % 7 != 0"
            case "try":
                task = {"try": self.tasks(inner, free=True), "catch": self._catch(inner, free=free)}
            case "fork":
                self.forks += 1
                branches = [
                    {self._name(): {"do": self.tasks(inner, free=False)}}
                    for _ in range(rng.randint(1, 3))
                ]
                self.forks -= 1
                task = {"fork": {"branches": branches}, "output": {"as": "add % 97"}}
            case _:
                cases = [{"even": {"when": f". % {number + 1} == 0"}}, {"else": {}}]
                task = {"switch": cases[: rng.randint(1, 2)]}
        if rng.random() < 0.15:
            task["if"] = ". % 3 != 0"
        return task

    def _catch(self, depth: int, *, free: bool) -> dict[str, Any]:
        catch: dict[str, Any] = {}
        if free and self.rng.random() < 0.3:
            catch["errors"] = {"with": {"status": self.rng.choice(STATUS)}}
        if self.rng.random() < 0.5:
            catch["retry"] = {
                "delay": {"seconds": 1},
                "limit": {"attempt": {"count": self.rng.randint(1, 2)}},
            }
        if not free or self.rng.random() < 0.7:
            catch["do"] = self.tasks(depth, free=free)
        return catch


def written(seed: int) -> dict[str, Any]:
    """Return a document."""
    head = {"dsl": "1.0.3", "namespace": "test", "name": f"d{seed}", "version": "1.0.0"}
    tasks = Written(Random(seed)).tasks(0, free=True)
    return {"document": head, "do": tasks}


def expected(document: dict[str, Any], given: int) -> int:
    """Return what comes out.

    Raises:
        Raises: an error does.
    """
    try:
        return Read().list_of(document["do"], given, "")[0]
    except Ends as ends:
        output: int = ends.args[0]
        return output


@attrs.define
class Read:
    """Reads a document; remembers how often each call has failed, by its place and passes."""

    failed: dict[str, int] = attrs.Factory(dict)

    def list_of(self, tasks: list[dict[str, Any]], value: int, place: str) -> tuple[int, bool]:
        """Return the output of a list, and whether it was left before its end."""
        index, begun = 0, 0
        while index < len(tasks):
            ((name, task),) = tasks[index].items()
            here, begun = f"{place}/{begun}{name}", begun + 1
            if "if" in task and value % 3 == 0:
                index += 1
                continue
            value, then = self.task(task, value, here)
            then = then or task.get("then", "continue")
            if then == "end":
                raise Ends(value)
            if then == "exit":
                return value, True
            names = [next(iter(each)) for each in tasks]
            index = index + 1 if then == "continue" else names.index(then)
        return value, False

    def task(  # noqa: C901, PLR0911 - a table
        self, task: dict[str, Any], value: int, place: str
    ) -> tuple[int, str]:
        """Return the output of a task, and what follows instead of what it says."""
        match task:
            case {"set": str(program)}:
                return value * int(program.split()[3]) % 97, ""
            case {"call": "add"}:
                return value + task["with"]["k"], ""
            case {"call": "falter"}:
                return self._falter(task["with"]["times"], value, place), ""
            case {"raise": {"error": error}}:
                raise Raises(error["status"])
            case {"for": {"in": items}}:
                return self._for(task, items, value, place), ""
            case {"do": tasks}:
                return self.list_of(tasks, value, place)[0], ""
            case {"try": tasks}:
                return self._try(task, tasks, value, place), ""
            case {"fork": {"branches": branches}}:
                outputs = []
                for index, branch in enumerate(branches):
                    ((_, inner),) = branch.items()
                    skipped = "if" in inner and value % 3 == 0
                    branch_place = f"{place}#{index}"
                    outputs.append(value if skipped else self.task(inner, value, branch_place)[0])
                return sum(outputs) % 97, ""
            case {"switch": cases}:
                return value, self._case(cases, value)
        return value, ""

    def _falter(self, times: int, value: int, place: str) -> int:
        self.failed[place] = self.failed.get(place, 0) + 1
        if self.failed[place] <= times:
            raise Raises(503)
        return value

    def _for(self, task: dict[str, Any], items: str, value: int, place: str) -> int:
        numbers = [int(each) for each in items.strip("[]").split(",") if each]
        _, *tasks = task["do"]
        for index, number in enumerate(numbers):
            if "while" in task and value % 7 == 0:
                break
            here = f"{place}@{index}"
            value, is_left = self.list_of(tasks, value + number, here)
            if is_left:
                break
        return value

    def _case(self, cases: list[dict[str, Any]], value: int) -> str:
        for case in cases:
            for each in case.values():
                if "when" not in each or value % int(each["when"].split()[2]) == 0:
                    then: str = each["then"]
                    return then
        return ""

    def _try(self, task: dict[str, Any], tasks: list[Any], value: int, place: str) -> int:
        catch = task["catch"]
        left = catch["retry"]["limit"]["attempt"]["count"] if "retry" in catch else 0
        while True:
            try:
                return self.list_of(tasks, value, f"{place}?")[0]
            except Raises as error:
                wanted = catch.get("errors", {"with": {"status": error.args[0]}})
                if wanted["with"]["status"] != error.args[0]:
                    raise
                if left > 0:
                    left -= 1
                elif "do" in catch:
                    return self.list_of(catch["do"], value, f"{place}!")[0]
                elif "retry" in catch:
                    raise
                else:
                    return value
