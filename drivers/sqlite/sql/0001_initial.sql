-- Times are microseconds since 1970 UTC. Bodies are JSON, see flowstate/codec.py.

-- What is true of the store as a whole: store_id, floor.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

-- Every revision. Dense from the floor to the head. The revisions of one state are chained by
-- previous, 0 at the first; an index by id would dirty one more page for each commit.
CREATE TABLE log (
    rev INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    previous INTEGER NOT NULL,
    status TEXT NOT NULL,
    committed_at INTEGER NOT NULL,
    delayed_until INTEGER,
    token TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX log_status ON log (status, rev);

-- Which revision of each state is the latest; narrow, because every commit changes it. When that
-- revision counts as stalled, if ever, and the last heartbeat for it, if there was one.
CREATE TABLE latest (
    id TEXT PRIMARY KEY,
    rev INTEGER NOT NULL,
    status TEXT NOT NULL,
    labels TEXT,
    stalls_at INTEGER,
    beat_at INTEGER,
    note TEXT
) WITHOUT ROWID;
CREATE INDEX latest_status ON latest (status, rev);
CREATE INDEX latest_stalls ON latest (stalls_at, id) WHERE stalls_at IS NOT NULL;

-- Which revisions have a label, and which of those are the latest of their state.
CREATE TABLE label (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (key, value, rev)
) WITHOUT ROWID;
CREATE TABLE latest_label (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (key, value, rev)
) WITHOUT ROWID;

-- Blobs by content; stored_at is the head when a blob was last stored.
CREATE TABLE data (
    checksum TEXT PRIMARY KEY,
    stored_at INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    blob BLOB NOT NULL
);
CREATE TABLE data_reference (
    rev INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    PRIMARY KEY (rev, checksum)
) WITHOUT ROWID;
CREATE INDEX data_reference_checksum ON data_reference (checksum);

-- Delays that have not fired. A commit of a state removes those that it had.
CREATE TABLE delay (
    id TEXT PRIMARY KEY,
    state_id TEXT NOT NULL,
    rev INTEGER NOT NULL,
    due INTEGER NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX delay_due ON delay (due, id);
CREATE INDEX delay_state ON delay (state_id);
