"""Opening the file, and bringing its schema up to date."""

import sqlite3
import uuid
from importlib import resources

from flowstate.errors import StoreCorruptError, StoreUnavailableError, StoreVersionError

__all__ = ["MAX_LOG_BYTES", "SCHEMA_VERSION", "connect", "migrate"]

APPLICATION_ID = 0x666C6F77  # "flow"
MIGRATIONS = ("0001_initial.sql", "0002_flows.sql", "0003_idle.sql")
SCHEMA_VERSION = len(MIGRATIONS)
MAX_LOG_BYTES = 8 * 1024 * 1024  # That the write-ahead log keeps on disk once it is empty.

OPTIONS = (
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "mmap_size = 0",
    "trusted_schema = OFF",
    f"journal_size_limit = {MAX_LOG_BYTES}",
)
READING = ("wal_autocheckpoint = 0", "query_only = ON")
# A statement that changes many rows keeps the pages as they were until it ends: in a file, by
# default, once they are more than 64 KiB. For a large store that doubles the time of a batch.
WRITING = ("temp_store = MEMORY",)


def connect(path: str, *, timeout: float, writer: bool, synchronous: str) -> sqlite3.Connection:
    """Open a connection.

    Only the writer's connection checkpoints: see :mod:`flowstate.drivers.sqlite.lock`.
    """
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        for option in (f"synchronous = {synchronous}", *OPTIONS, *(WRITING if writer else READING)):
            connection.execute(f"PRAGMA {option}")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: str) -> str:
    """Make a new file a store, or bring an older one up to date; return the store's id.

    Raises:
        StoreVersionError: the file is from a newer library.
        StoreCorruptError: the file is some other program's database.
        StoreUnavailableError: the file system cannot do write-ahead logging.
        sqlite3.OperationalError: among others, that the file may only be read.
    """
    _check_ours(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailableError(f"{path}: write-ahead logging is not possible, only {mode}")
    connection.execute("PRAGMA temp_store = FILE")  # A migration may change any number of pages.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check_ours(connection, path)
        for number in range(version, SCHEMA_VERSION):
            _run(connection, MIGRATIONS[number])
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            rows = [("store_id", f"sqlite-{uuid.uuid4().hex}"), ("floor", 1)]
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        if version < SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        # Changes nothing, but fails if the file may only be read; BEGIN IMMEDIATE does not.
        connection.execute("UPDATE meta SET value = value WHERE 0")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    for option in WRITING:
        connection.execute(f"PRAGMA {option}")
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    if not isinstance(meta.get("store_id"), str) or not isinstance(meta.get("floor"), int):
        raise StoreCorruptError(f"{path}: the table meta is damaged")
    return str(meta["store_id"])


def _check_ours(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema version of the file; 0 when it is empty."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise StoreVersionError(
                f"{path}: schema version {version} is newer than {SCHEMA_VERSION}, "
                "the highest that this library knows; upgrade flowstate"
            )
        return int(version)
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if objects or version or application:
        raise StoreCorruptError(f"{path}: this database is not a flowstate store")
    return 0


def _run(connection: sqlite3.Connection, name: str) -> None:
    script = resources.files("flowstate.drivers.sqlite").joinpath("sql", name).read_text()
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(statement)  # The last one, should it lack its semicolon.
