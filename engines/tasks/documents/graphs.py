"""Checks the states of a machine and the ways between them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flowstate.engines.tasks.documents.keywords import Fault, Path, likely

__all__ = ["graph_faults"]


def graph_faults(machine: Mapping[str, Any]) -> Iterator[Fault]:
    """Iterate over what is wrong with the states of a machine that has the right shape."""
    states, final = machine["states"], machine["final"]
    named: list[tuple[Path, str]] = [(("start",), machine["start"])]
    named += [(("final", index), name) for index, name in enumerate(final)]
    for name, state in states.items():
        named += _targets(name, state)
        yield from _state_faults(("states", name), state, is_final=name in final)
    wrong = [(path, name) for path, name in named if name not in states]
    for path, name in wrong:
        yield path, f"there is no state {name!r}{likely(name, states)}"
    if not wrong:
        yield from _unreachable(machine)


def _targets(name: str, state: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for index, each in enumerate(state.get("transitions", ())):
        yield ("states", name, "transitions", index, "to"), each["to"]
    if "catch" in state:
        yield ("states", name, "catch", "to"), state["catch"]["to"]


def _state_faults(path: Path, state: Mapping[str, Any], *, is_final: bool) -> Iterator[Fault]:
    transitions = state.get("transitions", ())
    if is_final:
        for each in ("transitions", "catch"):
            if each in state:
                yield (*path, each), f"a final state has no {each}"
    elif not transitions:
        yield path, "has no transitions, and is no final state"
    always = [index for index, each in enumerate(transitions) if not {"if", "when"} & each.keys()]
    for index, each in enumerate(transitions):
        if always and (index > always[0] or "when" in each):
            text = "is never taken, since one without if and when is taken at once"
            yield (*path, "transitions", index), text


def _unreachable(machine: Mapping[str, Any]) -> Iterator[Fault]:
    states, final = machine["states"], machine["final"]
    ways = {name: {to for _, to in _targets(name, state)} for name, state in states.items()}
    back: dict[str, set[str]] = {name: set() for name in states}
    for name, targets in ways.items():
        for target in targets:
            back[target].add(name)
    reached, ending = _closure([machine["start"]], ways), _closure(final, back)
    for name in states:
        if name not in reached:
            yield ("states", name), "no way leads here from the start"
        elif name not in ending and ways[name]:
            yield ("states", name), "no way leads from here to a final state"


def _closure(start: Iterable[str], ways: Mapping[str, set[str]]) -> set[str]:
    """Return what can be reached, and the start."""
    reached: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += ways[name]
    return reached
