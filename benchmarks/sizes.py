"""How much of everything is done."""

from msgspec import Struct

__all__ = ["SIZES", "Sizes"]


class Sizes(Struct, frozen=True):
    """Amounts, for one round unless they say otherwise.

    Attributes:
        name: of the preset.
        seconds: that the whole run should take; workloads get further rounds until it is used
            up, and the least rounds of each may take longer.
        least_rounds: of each workload, whatever time they take.
        most_rounds: of each workload.
        memory_commits: by one task in memory; other amounts in memory are parts of it.
        sqlite_commits: by one task on SQLite.
        server_commits: by one task on Postgres and on Redis.
        concurrencies: how many tasks commit at once, where throughput is measured by that.
        chains: executions of three flows on a server, one at a time; several at once do more.
        operations: of each kind on stores that are filled, and deliveries to watchers.
        fan_outs: how many watchers there are, where delivery is measured by that.
        children: of one instance.
        sleeping: instances, while others run.
        small_log: revisions of the small store that a large one is compared with.
        memory_log: revisions of the large store in memory.
        sqlite_log: the same on SQLite.
        postgres_log: the same on Postgres.
        redis_log: the same on Redis.
        peer_seconds: for which each peer works at each concurrency.
        peer_concurrencies: how many workflows peers do at once.
        without: parts of the names of workloads that take too long for this size; who asks
            for them by name has them all the same.
    """

    name: str
    seconds: float
    least_rounds: int
    most_rounds: int
    memory_commits: int
    sqlite_commits: int
    server_commits: int
    concurrencies: tuple[int, ...]
    chains: int
    operations: int
    fan_outs: tuple[int, ...]
    children: int
    sleeping: int
    small_log: int
    memory_log: int
    sqlite_log: int
    postgres_log: int
    redis_log: int
    peer_seconds: float
    peer_concurrencies: tuple[int, ...]
    without: tuple[str, ...] = ()


TINY = Sizes(
    name="tiny",
    seconds=20.0,
    least_rounds=1,
    most_rounds=1,
    memory_commits=300,
    sqlite_commits=64,
    server_commits=20,
    concurrencies=(1, 8, 64),
    chains=10,
    operations=20,
    fan_outs=(1, 10),
    children=20,
    sleeping=200,
    small_log=200,
    memory_log=1_000,
    sqlite_log=1_000,
    postgres_log=1_000,
    redis_log=1_000,
    peer_seconds=0.1,
    peer_concurrencies=(1, 8),
)
QUICK = Sizes(
    name="quick",
    seconds=90.0,
    least_rounds=3,
    most_rounds=15,
    memory_commits=5_000,
    sqlite_commits=150,
    server_commits=100,
    concurrencies=(1, 64),
    chains=50,
    operations=100,
    fan_outs=(1, 16),
    children=200,
    sleeping=10_000,
    small_log=1_000,
    memory_log=20_000,
    sqlite_log=20_000,
    postgres_log=50_000,
    redis_log=20_000,
    peer_seconds=0.5,
    peer_concurrencies=(1, 32),
    without=(
        "among ",
        "another process",
        " asleep",
        "commit of 10 states",
        "commits to one state",
        "latency",
        "look for ",
        "more pending",
        "on another engine",
        "page of the log",
        "parent of ",
        "processes of ",
        "prune of ",
        "size of ",
        "start-up",
        "timers pending",
        "waiting for ",
    ),
)
FULL = Sizes(
    name="full",
    seconds=600.0,
    least_rounds=3,
    most_rounds=31,
    memory_commits=20_000,
    sqlite_commits=500,
    server_commits=250,
    concurrencies=(1, 8, 64, 512),
    chains=150,
    operations=250,
    fan_outs=(1, 100, 1_000),
    children=10_000,
    sleeping=100_000,
    small_log=1_000,
    memory_log=1_000_000,
    sqlite_log=1_000_000,
    postgres_log=1_000_000,
    redis_log=1_000_000,
    peer_seconds=0.5,
    peer_concurrencies=(1, 8, 32),
)
SIZES = {sizes.name: sizes for sizes in (TINY, QUICK, FULL)}
