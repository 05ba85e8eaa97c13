"""The graph of a definition: its stops, and the ways between them; as Mermaid and as JSON."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from flowstate.engines.kernel.code import Code
from flowstate.engines.workflow.compiler.ways import BEGIN, END, Way, ways_of
from flowstate.engines.workflow.definition import Definition
from flowstate.engines.workflow.section_code import Body
from flowstate.ground.frozen import EMPTY

__all__ = ["Graph", "Node", "graph_of"]

SHAPES = {
    "wait": ("{{", "}}"),
    "until": ("{{", "}}"),
    "call": ("[[", "]]"),
    "each": ("[[", "]]"),
    "join": ("[/", "/]"),
    "go": (">", "]"),
}
STEP = ("[", "]")


class Node(Struct, frozen=True, omit_defaults=True):
    """A stop.

    Attributes:
        name: of the stop.
        kind: as of ``Stop``.
        line: in the source; 0 if there is none.
        uses: code that it calls, begins, or starts instances of.
        live: how many live instances stand there.
    """

    name: str
    kind: str
    line: int = 0
    uses: tuple[str, ...] = ()
    live: int = 0


class Graph(Struct, frozen=True):
    """The stops of a definition, and the ways between them.

    Attributes:
        name: of the definition.
        nodes: in the order of the source.
        ways: from stop to stop, the begin being ``"begin"`` and the end ``"end"``. None are known
            of code that is no function.
    """

    name: str
    nodes: tuple[Node, ...]
    ways: tuple[Way, ...] = ()

    def json(self) -> str:
        """Return it as JSON."""
        return msgspec.json.encode(self).decode()

    def mermaid(self) -> str:
        """Return it as a flowchart in the language of Mermaid."""
        ids = {node.name: f"s{number}" for number, node in enumerate(self.nodes)}
        lines = ["flowchart TD", f"    {BEGIN}({_text(self.name)})"]
        lines += [f"    {ids[node.name]}{_box(node)}" for node in self.nodes]
        lines.append(f"    {END}((end))")
        for way in self.ways:
            label = f"|{_text(way.when)}|" if way.when else ""
            to, from_ = (ids.get(each, each) for each in (way.to, way.begin))
            lines.append(f"    {from_} -->{label} {to}")
        return "\n".join(lines)


def _text(text: str) -> str:
    escaped = text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;")
    return f'"{escaped}"'


def _box(node: Node) -> str:
    begin, end = SHAPES.get(node.kind, STEP)
    parts = [node.name, *(f"({each})" for each in node.uses)]
    if node.live:
        parts.append(f"[{node.live} live]")
    return f"{begin}{_text(' '.join(parts))}{end}"


def graph_of(code: Code, live: Mapping[str, int] = EMPTY) -> Graph:
    """Return the graph of a definition.

    Args:
        code: a workflow, a helper or sections; of other code it has only the stops.
        live: how many live instances stand at each stop, see ``Workflows.standing``.

    Raises:
        CompileError: it cannot be compiled.
    """
    ways: Sequence[Way] = ()
    uses: Mapping[str, tuple[str, ...]] = EMPTY
    if isinstance(code, Definition):
        assert code.stops is not None  # noqa: S101 - what cannot be compiled has no graph
        ways, uses = ways_of(code.function)
    elif isinstance(code, Body):
        ways = code.ways
    nodes = [
        Node(stop.name, stop.kind, stop.line, uses.get(stop.name, ()), live.get(stop.name, 0))
        for stop in code.stops.values()
    ]
    return Graph(code.name, tuple(nodes), tuple(ways))
