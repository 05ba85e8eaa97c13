"""Which names a piece of source reads and binds in the scope that it stands in."""

import ast
from collections.abc import Iterable, Iterator

__all__ = ["Names", "names_of", "path_of", "surely_bound", "targets_of"]

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Names(ast.NodeVisitor):
    """Collects names; of nested functions those that they take from around them.

    Attributes:
        reads: names whose value is needed.
        binds: names that get a value, or lose it.
        shared: names that are declared as global or nonlocal.
    """

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.shared: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Store):
            self.reads.add(node.id)
        if not isinstance(node.ctx, ast.Load):
            self.binds.add(node.id)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            self.reads.add(node.target.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif isinstance(node.target, ast.Name):
            self.binds.add(node.target.id)  # Nothing is evaluated, but the name is local.

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.shared.update(node.names)

    visit_Nonlocal = visit_Global

    def visit_alias(self, node: ast.alias) -> None:
        self.binds.add((node.asname or node.name).partition(".")[0])

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.generic_visit(node)
        if node.name:
            self.binds.add(node.name)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        if node.name:
            self.binds.add(node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest:
            self.binds.add(node.rest)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.binds.add(node.name)
        for each in (*node.decorator_list, node.args, *([node.returns] if node.returns else ())):
            self.visit(each)
        self.reads |= _free(node, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.reads |= _free(node, [node.body])

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.binds.add(node.name)
        for each in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.visit(each)
        inner = names_of(*node.body)
        self.reads |= inner.reads - inner.binds | (inner.shared & inner.reads)

    def _visit_comprehension(self, node: Comprehension) -> None:
        inner = Names()
        inner.generic_visit(node)
        own = {name for each in node.generators for name in names_of(each.target).binds}
        self.reads |= inner.reads - own
        self.binds |= inner.binds - own

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension


def _free(scope: Scope, body: Iterable[ast.AST]) -> set[str]:
    """Return the names that a nested function takes from around it."""
    inner = names_of(*body)
    args = scope.args
    own = {each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    own |= {each.arg for each in (args.vararg, args.kwarg) if each}
    return (inner.reads | inner.shared) - ((inner.binds - inner.shared) | own)


def names_of(*nodes: ast.AST) -> Names:
    """Return the names in some pieces of source."""
    names = Names()
    for node in nodes:
        names.visit(node)
    return names


def targets_of(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the single targets of an assignment."""
    if isinstance(node, ast.Tuple | ast.List):
        for each in node.elts:
            yield from targets_of(each)
    else:
        yield node.value if isinstance(node, ast.Starred) else node


def path_of(node: ast.AST) -> tuple[str, ...] | None:
    """Return the names of ``a.b.c``, or ``None`` if it is anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def surely_bound(node: ast.AST) -> set[str]:
    """Return the names that have a value once a simple statement or an expression has ended."""
    match node:
        case ast.Delete() | ast.Lambda() | ast.GeneratorExp():
            return set()
        case ast.ListComp() | ast.SetComp() | ast.DictComp():
            return surely_bound(node.generators[0].iter)
        case ast.IfExp():
            return surely_bound(node.test)
        case ast.BoolOp():
            return surely_bound(node.values[0])
        case ast.Compare():
            return surely_bound(node.left) | surely_bound(node.comparators[0])
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.AnnAssign(value=None) | ast.Assert():
            return set()
        case ast.Name(ctx=ast.Store()):
            return {node.id}
        case ast.alias():
            return names_of(node).binds
    return {name for each in ast.iter_child_nodes(node) for name in surely_bound(each)}
