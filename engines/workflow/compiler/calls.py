"""Reads the calls of marks: their names, their branches, and the code that they name."""

import ast
import inspect
import re
from collections.abc import Iterator

import attrs

from flowstate.engines.kernel.outside import Event, Result
from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.lookup import Lookup
from flowstate.engines.workflow.compiler.scope import path_of
from flowstate.engines.workflow.compiler.stops import MarkCall
from flowstate.engines.workflow.marking import Defined, Mark, Point, mark_of
from flowstate.engines.workflow.marks import Timeout

__all__ = ["Calls"]

OUTSIDE = (Event, Result)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


@attrs.frozen
class Calls:
    """Reads calls of marks.

    Attributes:
        lookup: for what is called.
        problems: what is refused is added here.
    """

    lookup: Lookup
    problems: Problems

    def mark(self, node: ast.AST) -> Mark | None:
        """Return the mark that a node calls."""
        return mark_of(self.lookup.value(node.func)) if isinstance(node, ast.Call) else None

    def marks(self, node: ast.AST) -> Iterator[ast.Call]:
        """Yield the outermost calls of marks within a node."""
        if isinstance(node, ast.Call) and self.mark(node):
            yield node
            return
        for child in ast.iter_child_nodes(node):
            yield from self.marks(child)

    def read(self, node: ast.Call, mark: Mark, *, is_branch: bool = False) -> MarkCall:
        """Return what a call of a mark says."""
        branches = []
        for inner in (each for child in ast.iter_child_nodes(node) for each in self.marks(child)):
            found = self.mark(inner)
            if mark.is_join and found:
                branches.append(self.read(inner, found, is_branch=True))
        if is_branch and mark.kind == "go":
            self.problems.add(node, "go", "stands in a branch", "write sub(...)")
        if is_branch and any(self._is_timeout(each) for each in node.args):
            fix = "write any_of(wait(...), sleep(...))"
            self.problems.add(node, "Timeout", "stands in a branch", fix)
        if mark.name == "wait":
            self._check_sources(node)
        target = self._target(node, mark) if mark.kind in {"call", "go", "each"} else None
        self._check_arguments(node, mark, target)
        return MarkCall(node, mark, Point(self._name(node, mark)), target, branches)

    def _check_sources(self, node: ast.Call) -> None:
        """Refuse a wait that no message can end."""
        fix = 'write wait("name of the stop", Class, ...)'
        for each in node.args[1:]:
            if isinstance(each, ast.Constant):
                self.problems.add(each, ast.unparse(each), "is not the class of a message", fix)
        names = {each.arg for each in node.keywords}
        is_named = all(isinstance(each, ast.Constant) for each in node.args)
        if is_named and not node.args[1:] and not names & {"timeout", None}:
            self.problems.add(node, ast.unparse(node), "waits for nothing", fix)

    def _is_timeout(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and self.lookup.value(node.func) is Timeout

    def _target(self, node: ast.Call, mark: Mark) -> Defined | None:
        """Return the code that a call names."""
        found = self.lookup.value(node.args[0]) if node.args else None
        if isinstance(found, Defined) and (found.has_instances or mark.kind != "each"):
            return found
        what, fix = "a helper or a workflow", "decorate the function with @helper"
        if mark.kind == "each":
            what, fix = "a workflow", 'decorate the function with @workflow("...")'
        text = ast.unparse(node.args[0] if node.args else node)
        self.problems.add(node, text, f"is not the name of {what}", fix)
        return None

    def _check_arguments(self, node: ast.Call, mark: Mark, target: Defined | None) -> None:
        """Refuse arguments that what is called does not take, as far as that can be seen."""
        if not (mark.takes_code and node.args) or mark.kind == "each":
            return
        head, *rest = node.args
        call = target.arguments if target else self.lookup.value(head)
        names = [each.arg for each in node.keywords]
        is_open = None in names or any(isinstance(each, ast.Starred) for each in rest)
        if is_open or not callable(call):
            return
        given = {name: None for name in names if name and name not in mark.options}
        try:
            bind = call if target else inspect.signature(call).bind
            bind(*rest, **given)
        except TypeError as error:
            fix = "give it the arguments that it takes"
            self.problems.add(node, ast.unparse(head), str(error), fix)
        except ValueError:
            return  # A builtin function that does not say what it takes.

    def _name(self, node: ast.Call, mark: Mark) -> str:
        for keyword in node.keywords:
            if keyword.arg == "name":
                return self._literal(keyword.value)
        head = node.args[0] if node.args else None
        if mark.name == "wait":
            return self._literal(head) if isinstance(head, ast.Constant) else self._of_sources(node)
        if not (mark.takes_code and head):
            return mark.name
        if path_of(head) is None:
            fix = 'write name="..." into its call'
            self.problems.add(node, ast.unparse(node), "has no name for its stop", fix)
        return _last(head)

    def _of_sources(self, node: ast.Call) -> str:
        sources = (each for each in node.args if not self._is_timeout(each))
        return "-or-".join(_last(self._class(each)) for each in sources)[:100] or "wait"

    def _class(self, node: ast.expr) -> ast.expr:
        """Return what the source of a wait is named after."""
        if not isinstance(node, ast.Call):
            return node
        return node.args[0] if node.args and self.lookup.value(node.func) in OUTSIDE else node.func

    def _literal(self, node: ast.expr) -> str:
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and NAME.fullmatch(value):
            return value
        reason = "is no name of a stop"
        fix = "write a text in quotes: letters, digits, _ and -, at most 100, a letter first"
        self.problems.add(node, ast.unparse(node), reason, fix)
        return "?"


def _last(node: ast.AST) -> str:
    """Return the last name of ``a.b.c``, made fit for the name of a stop."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", ast.unparse(node).rpartition(".")[2])[:100]
