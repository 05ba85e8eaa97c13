"""The bare loop of each store, open for as long as a run."""

from benchmarks.limits.bare import Bare
from benchmarks.limits.memory import BareMemory
from benchmarks.limits.postgres import BarePostgres
from benchmarks.limits.redis import BareRedis
from benchmarks.limits.sqlite import BareSQLite
from benchmarks.setting import Setting

__all__ = ["bare_loops"]

_known: dict[Setting, dict[str, Bare]] = {}


def bare_loops(setting: Setting) -> dict[str, Bare]:
    """Return them by the name of the store; all suites of a run share them."""
    if setting not in _known:
        setting.stack.callback(_known.pop, setting)
        _known[setting] = {
            "memory": BareMemory(),
            "sqlite": BareSQLite(setting),
            "postgres": BarePostgres(setting),
            "redis": BareRedis(setting),
        }
    return _known[setting]
