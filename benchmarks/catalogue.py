"""Which suites there are, and which of their workloads are meant."""

import importlib
from collections.abc import Sequence

from benchmarks.setting import Setting, Suite
from benchmarks.workload import Workload

__all__ = ["CatalogueError", "chosen", "suites"]

OWN = "benchmarks.suites"
PEERS = "benchmarks.peers.suite:workloads"


class CatalogueError(Exception):
    """There is no such suite, or two workloads have one name."""


def suites(names: Sequence[str], *, peers: bool) -> list[Suite]:
    """Return the suites of these names, such as "package.module:function"; of none, all.

    Args:
        names: where suites are.
        peers: whether other libraries are among all of them.

    Raises:
        CatalogueError: there is no such suite.
    """
    if names:
        return [_found(name) for name in names]
    own: Sequence[Suite] = importlib.import_module(OWN).SUITES
    # First, since their rounds take long: others then share the time that is left.
    return [*([_found(PEERS)] if peers else []), *own]


def chosen(setting: Setting, suites: Sequence[Suite], only: str = "") -> list[Workload]:
    """Return the workloads whose key contains ``only``, in the order of the suites.

    Without it, those that the size leaves out are not among them.

    Raises:
        CatalogueError: two have one key.
    """
    workloads = [workload for suite in suites for workload in suite(setting)]
    keys = [workload.key for workload in workloads]
    if doubled := {key for key in keys if keys.count(key) > 1}:
        raise CatalogueError(f"more than one workload: {', '.join(sorted(doubled))}")
    if only:
        return [workload for workload in workloads if only in workload.key]
    without = setting.sizes.without
    return [found for found in workloads if not any(part in found.key for part in without)]


def _found(name: str) -> Suite:
    module, _, attribute = name.partition(":")
    try:
        suite: Suite = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise CatalogueError(f"no suite at {name}: {error}") from error
    return suite
