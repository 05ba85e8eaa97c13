"""What tests of workloads share: small amounts, and one workload of many."""

from msgspec.structs import replace

from benchmarks.catalogue import chosen
from benchmarks.setting import Setting, Suite
from benchmarks.sizes import TINY
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.workload import Workload

__all__ = ["SHARED", "SMALL", "STORES", "engines_on", "only"]

STORES = ["memory", "sqlite", "postgres", "redis"]
SHARED = STORES[1:]
SMALL = replace(
    TINY,
    memory_commits=64,
    server_commits=10,
    operations=6,
    fan_outs=(3,),
    memory_log=2_000,
    sqlite_log=2_000,
    postgres_log=2_000,
    redis_log=2_000,
)


def engines_on(setting: Setting, store: str) -> Engines:
    """Return the engines on a store."""
    (found,) = [engines for engines in engines_of(setting) if engines.store.name == store]
    return found


def only(setting: Setting, suite: Suite, key: str) -> Workload:
    """Return the one workload of a suite whose name contains this."""
    (found,) = chosen(setting, [suite], key)
    return found
