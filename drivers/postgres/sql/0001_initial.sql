-- Bodies and annotations are JSON, see flowstate/codec.py. Text is compared byte by byte, so that
-- no change of a locale hurts an index.

-- What is true of the store as a whole; one row.
CREATE TABLE {schema}.meta (
    version integer NOT NULL,
    store_id text NOT NULL,
    floor bigint NOT NULL,
    single boolean PRIMARY KEY DEFAULT true CHECK (single)
);
INSERT INTO {schema}.meta VALUES (1, 'postgres-' || gen_random_uuid(), 1);

-- Every revision. Dense from the floor to the head. The revisions of one state are chained by
-- previous, 0 at the first; an index by id would dirty one more page for each commit.
CREATE TABLE {schema}.log (
    rev bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    previous bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    committed_at timestamptz NOT NULL,
    delayed_until timestamptz,
    token text COLLATE "C" NOT NULL,
    body json NOT NULL
);
CREATE INDEX log_status ON {schema}.log (status, rev);

-- Which revision of each state is the latest, when that stalls, and its last heartbeat; narrow,
-- because every commit changes it.
CREATE TABLE {schema}.latest (
    id text COLLATE "C" PRIMARY KEY,
    rev bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    labelled boolean NOT NULL,
    delayed boolean NOT NULL,
    stalls_at timestamptz,
    stalls_after bigint,
    beat_at timestamptz,
    note text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX latest_status ON {schema}.latest (status, rev);
CREATE INDEX latest_stalls_at ON {schema}.latest (stalls_at, id) WHERE stalls_at IS NOT NULL;

-- Which revisions have a label, and which of those are the latest of their state.
CREATE TABLE {schema}.label (
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    PRIMARY KEY (key, value, rev)
);
CREATE TABLE {schema}.latest_label (
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    PRIMARY KEY (key, value, rev)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Blobs by content; stored_at is the head when a blob was last stored.
CREATE TABLE {schema}.data (
    checksum text COLLATE "C" PRIMARY KEY,
    stored_at bigint NOT NULL,
    annotations json NOT NULL,
    blob bytea NOT NULL
);
CREATE TABLE {schema}.data_reference (
    rev bigint NOT NULL,
    checksum text COLLATE "C" NOT NULL,
    PRIMARY KEY (rev, checksum)
);
CREATE INDEX data_reference_checksum ON {schema}.data_reference (checksum);

-- Delays that have not fired. A commit of a state removes those that it had.
CREATE TABLE {schema}.delay (
    id text COLLATE "C" PRIMARY KEY,
    state_id text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    due timestamptz NOT NULL,
    body json NOT NULL
);
CREATE INDEX delay_due ON {schema}.delay (due, id);
CREATE INDEX delay_state ON {schema}.delay (state_id);
