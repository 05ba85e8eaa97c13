"""Translates machines into the form of the DSL, and keeps where each part comes from.

A state is a task of the top list, followed by a ``switch`` that goes on at the next state:

- ``X``: the instructions; then ``next.choose``, if some transitions are decided at once; then
  ``next.race``, a competing ``fork`` of the conditions of the others. It puts out ``{to, data}``.
- ``X.next``: goes on at the task ``to``, with ``data``.

Data is an object. A condition puts out what it adds to the data.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flowstate.engines.tasks.documents.keywords import Path, parts_in
from flowstate.engines.tasks.errors import error_type
from flowstate.engines.tasks.templates import program_of

__all__ = ["Translation"]

Json = dict[str, Any]
FUNCTIONS = {"http": "http", "rpc": "rpc", "db": "sql"}
COMMON = ("if", "timeout")
AS_OBJECT = '${ if type == "object" then . elif . == null then {} else {input: .} end }'
NO_TRANSITION = {
    "type": error_type("runtime"),
    "status": 500,
    "title": "No transition applies",
}


class Translation:
    """The translation of a machine that has no faults.

    Attributes:
        content: in the form of the DSL.
        origins: the path of each part in the source, by its path in the content.
    """

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._from = {
            id(each): path for path, each in parts_in(source) if isinstance(each, dict | list)
        }
        self._final = source["final"]
        document = {"dsl": "1.0.3", **source["document"]}
        given = source.get("input", {})
        content = {
            "document": document,
            "input": {"from": AS_OBJECT, **given},
            **{
                key: source[key]
                for key in ("use", "timeout", "output", "schedule")
                if key in source
            },
            "do": self._states(source),
        }
        self.content: Json = content
        self.origins: dict[Path, Path] = {}
        for path, each in parts_in(content):
            origin = self._from.get(id(each)) if isinstance(each, dict | list) else None
            if origin is None:
                origin = (*self.origins[path[:-1]], path[-1]) if path else ()
            self.origins[path] = origin

    def origin(self, path: Path) -> Path:
        """Return from where in the source the part comes that is at a path of the content."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def _mark(self, part: Json, source: Json) -> Json:
        """Let a part that was made here come from a part of the source."""
        self._from[id(part)] = self._from[id(source)]
        return part

    def _states(self, source: Mapping[str, Any]) -> list[Json]:
        states, start = source["states"], source["start"]
        tasks: list[Json] = []
        for name in sorted(states, key=lambda each: each != start):
            state = states[name]
            tasks.append(self._mark({name: self._state(name, state)}, state))
            if name not in self._final:
                tasks.append(self._mark({f"{name}.next": self._mark(_next(state), state)}, state))
        return tasks

    def _state(self, name: str, state: Json) -> Json:
        tasks = [
            self._mark({key: self._instruction(each)}, each)
            for item in state.get("do", ())
            for key, each in item.items()
        ]
        if name in self._final:
            tasks.append({"next.end": {"set": "${ . }"}})
            end = {"output": {"as": f'${{ {{state: "{name}", data: .}} }}'}, "then": "end"}
        else:
            tasks += self._transitions(state)
            end = {}
        return self._mark({**self._caught(tasks, state), **end}, state)

    def _caught(self, tasks: list[Json], state: Json) -> Json:
        if "catch" not in state:
            return {"do": tasks}
        catch = state["catch"]
        recover = {"set": _to(catch["to"], "($input + {error: $error})")}
        errors = {"errors": catch["errors"]} if "errors" in catch else {}
        return {"try": tasks, "catch": self._mark({**errors, "do": [{"recover": recover}]}, catch)}

    def _instruction(self, given: Json) -> Json:
        """Return a task that does it, and puts out the data."""
        task = self._action(given)
        added = _field(given) if "set" not in given else "."
        task["output"] = {"as": f"${{ $input + {added} }}"}
        task |= {key: given[key] for key in COMMON if key in given}
        if "retry" not in given:
            return self._mark(task, given)
        inner = self._mark({key: each for key, each in task.items() if key not in COMMON}, given)
        outer = {key: task[key] for key in COMMON if key in task}
        catch = self._mark({"retry": given["retry"]}, given)
        return self._mark({"try": [{"attempt": inner}], "catch": catch, **outer}, given)

    def _action(self, given: Json) -> Json:
        if "set" in given:
            return {"set": given["set"]}
        if "message" in given:
            return {"emit": {"event": {"with": given["message"]}}}
        if "function" in given:
            function = given["function"]
            return {
                "call": function["name"],
                **({"with": function["with"]} if "with" in function else {}),
            }
        kind = next(each for each in FUNCTIONS if each in given)
        return {"call": FUNCTIONS[kind], "with": given[kind]}

    def _transitions(self, state: Json) -> list[Json]:
        at_once = [each for each in state["transitions"] if "when" not in each]
        raced = [each for each in state["transitions"] if "when" in each]
        tasks: list[Json] = []
        if at_once:
            tasks.append(self._mark({"next.choose": {"set": _chosen(at_once)}}, state))
        if raced:
            race: Json = {"fork": {"compete": True, "branches": self._branches(raced)}}
            if at_once:
                race |= {"if": "${ .to == null }", "input": {"from": "${ .data }"}}
            tasks.append(self._mark({"next.race": self._mark(race, state)}, state))
        elif "if" in at_once[-1]:
            stuck = {"if": "${ .to == null }", "raise": {"error": NO_TRANSITION}}
            tasks.append(self._mark({"next.stuck": self._mark(stuck, state)}, state))
        return tasks

    def _branches(self, transitions: list[Json]) -> list[Json]:
        branches = []
        times: Counter[str] = Counter()
        for each in transitions:
            times[each["to"]] += 1
            name = f"{each['to']}.{times[each['to']]}" if times[each["to"]] > 1 else each["to"]
            task: Json = {"do": [{"until": self._condition(each["when"])}]}
            task["output"] = {"as": _to(each["to"], "($input + .)")}
            if "timeout" in each:
                task["timeout"] = each["timeout"]
            branches.append(self._mark({name: self._mark(task, each)}, each))
        return branches

    def _condition(self, condition: Json) -> Json:
        """Return a task that waits for a condition, and puts out what it adds to the data."""
        ((kind, given),) = condition.items()
        if kind == "wait":
            task: Json = {"wait": given, "output": {"as": "${ {} }"}}
        elif kind == "event":
            to = {"one": {key: given[key] for key in ("with", "correlate") if key in given}}
            task = {"listen": {"to": to}, "output": {"as": f"${{ .[0] | {_field(given)} }}"}}
        elif kind == "poll":
            task = self._poll(given)
        else:
            branches = [{f"{index + 1}": self._condition(each)} for index, each in enumerate(given)]
            task = {"fork": {"compete": kind == "any", "branches": branches}}
            task |= {"output": {"as": "${ add }"}} if kind == "all" else {}
        return self._mark(task, condition)

    def _poll(self, given: Json) -> Json:
        """Return a loop; its data on the way is ``{answer, data}``."""
        ask = self._mark(self._action(given), given)
        ask["output"] = {"as": "${ {answer: ., data: $input, asked: true} }"}
        if "ignore" in given:
            missed = {"set": "${ {data: ., asked: false} }"}
            catch = {"errors": {"with": given["ignore"]}, "do": [{"missed": missed}]}
            ask = self._mark({"try": [{"question": ask}], "catch": catch}, given)
        until = f"(.data as $data | .answer | (\n{program_of(given['until'])}\n\n))"
        met = {"when": f"${{ .asked and {until} }}", "then": "exit"}
        every = {"wait": given["every"], "output": {"as": "${ .data }"}, "then": "ask"}
        tasks = [
            {"ask": ask},
            {"check": {"switch": [{"met": met}, {"not-yet": {"then": "pause"}}]}},
            {"pause": self._mark(every, given)},
        ]
        return {"do": tasks, "output": {"as": f"${{ .answer | {_field(given)} }}"}}


def _next(state: Json) -> Json:
    targets = [each["to"] for each in state["transitions"]]
    targets += [state["catch"]["to"]] if "catch" in state else []
    cases = [
        {each: {"when": f'${{ .to == "{each}" }}', "then": each}} for each in dict.fromkeys(targets)
    ]
    return {"switch": cases, "output": {"as": "${ .data }"}}


def _chosen(transitions: list[Json]) -> str:
    """Return an expression that gives the first transition that applies, or none."""
    chosen = "{to: null, data: .}"
    for each in reversed(transitions):
        this = f'{{to: "{each["to"]}", data: .}}'
        condition = program_of(each["if"]) if "if" in each else "true"
        chosen = f"if (\n{condition}\n\n) then {this} else {chosen} end"
    return f"${{ {chosen} }}"


def _to(state: str, data: str) -> str:
    return f'${{ {{to: "{state}", data: {data}}} }}'


def _field(given: Json) -> str:
    return f"{{{given['as']}: .}}" if "as" in given else "{}"
