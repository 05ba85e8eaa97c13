"""What the servers of a run are, and which of their settings the figures depend on."""

import psycopg
from redis import Redis

from benchmarks.setting import Setting

__all__ = ["server_settings"]

POSTGRES = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_connections",
)
REDIS = ("appendonly", "appendfsync", "save", "maxmemory", "io-threads")


def server_settings(setting: Setting) -> dict[str, dict[str, str]]:
    """Ask those that were needed, by the name of the store."""
    found = {}
    if url := setting.postgres_server:
        found["postgres"] = _postgres(url)
    if url := setting.redis_server:
        found["redis"] = _redis(url)
    return found


def _postgres(url: str) -> dict[str, str]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
            [list(POSTGRES)],
        ).fetchall()
    return {str(name): str(value) for name, value in sorted(rows)}


def _redis(url: str) -> dict[str, str]:
    with Redis.from_url(url, decode_responses=True) as client:
        version = client.info("server")["redis_version"]
        settings = client.config_get(*REDIS)
    return {"server_version": str(version)} | {
        str(name): str(value) for name, value in sorted(settings.items())
    }
