"""What is done in an hour: the amounts of the test suite ten times, and servers under fire."""

from tests.soak.stage import Stage

__all__ = ["STAGES"]

STAGES = (
    Stage("schedules", "schedules", 50_000, 100),
    Stage("programs-memory", "steps", 500_000, 5_000),
    Stage("programs-sqlite", "steps", 50_000, 1_000),
    Stage("programs-postgres", "steps", 50_000, 1_000),
    Stage("programs-redis", "steps", 50_000, 1_000),
    Stage("workflows", "programs", 200_000, 50, part=0.2),
    Stage("counters-memory", "increments", 200_000, 20_000),
    Stage("counters-sqlite", "increments", 100_000, 10_000),
    Stage("counters-postgres", "increments", 20_000, 2_000),
    Stage("counters-redis", "increments", 20_000, 2_000),
    Stage("generations-memory", "states", 500_000, 250_000),
    Stage("generations-sqlite", "states", 1_000_000, 250_000),
    Stage("generations-postgres", "states", 1_500_000, 500_000),
    Stage("generations-redis", "states", 2_000_000, 500_000),
    Stage("histories-postgres", "operations", part=0.2),
    Stage("histories-redis", "operations", part=0.2),
    Stage("fire-sqlite", "jobs", part=0.1),
    Stage("fire-postgres", "jobs", part=0.15),
    Stage("fire-redis", "jobs", part=0.15),
)
