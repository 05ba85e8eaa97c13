-- What is due is found by the flow that it goes to, so that a backlog of one flow costs the
-- others nothing. A flow that cannot be read is empty here.
-- It has no default, so that the first edition, should it still run, cannot write here any more: it
-- would leave states in flows where they are not found.
CREATE TABLE latest_by_flow (
    id TEXT PRIMARY KEY,
    rev INTEGER NOT NULL,
    status TEXT NOT NULL,
    labels TEXT,
    stalls_at INTEGER,
    beat_at INTEGER,
    note TEXT,
    flow TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO latest_by_flow SELECT latest.*, coalesce(
    CASE WHEN stalls_at NOTNULL AND typeof(body) = 'text' AND json_valid(body)
        THEN json_extract(body, '$.transition.to') END, ''
) FROM latest LEFT JOIN log USING (rev);
DROP TABLE latest;
ALTER TABLE latest_by_flow RENAME TO latest;
CREATE INDEX latest_status ON latest (status, rev);
CREATE INDEX latest_due ON latest (flow, stalls_at, id) WHERE stalls_at IS NOT NULL;

-- The holder is who claimed the delay last.
ALTER TABLE delay ADD COLUMN flow TEXT NOT NULL DEFAULT '';
ALTER TABLE delay ADD COLUMN holder TEXT NOT NULL DEFAULT '';
UPDATE delay SET flow = coalesce(
    CASE WHEN json_valid(body) THEN json_extract(body, '$.to') END, ''
) WHERE typeof(body) = 'text';
DROP INDEX delay_due;
DROP INDEX delay_state;
CREATE INDEX delay_due ON delay (flow, due, id);
CREATE INDEX delay_state ON delay (state_id, rev, due);
INSERT INTO meta VALUES ('delays', 0); -- Rises with each commit that stores delays.

-- Data that a delay needs is kept for as long as the delay is there.
CREATE TABLE delay_reference (
    delay TEXT NOT NULL,
    checksum TEXT NOT NULL,
    PRIMARY KEY (delay, checksum)
) WITHOUT ROWID;
CREATE INDEX delay_reference_checksum ON delay_reference (checksum);
INSERT OR IGNORE INTO delay_reference
SELECT delay.id, json_extract(CASE ref.type WHEN 'object' THEN ref.value END, '$.checksum')
FROM delay, json_each(
    CASE WHEN json_valid(delay.body) THEN delay.body ELSE '{}' END, '$.state.data'
) AS ref WHERE typeof(delay.body) = 'text';
CREATE TRIGGER delay_gone AFTER DELETE ON delay BEGIN
    DELETE FROM delay_reference WHERE delay = old.id;
END;

-- A page of the latest revisions by label and status passes over no other status.
CREATE TABLE latest_label_by_status (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    status TEXT NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (key, value, status, rev)
) WITHOUT ROWID;
INSERT INTO latest_label_by_status
SELECT key, value, log.status, rev FROM latest_label JOIN log USING (rev);
DROP TABLE latest_label;
ALTER TABLE latest_label_by_status RENAME TO latest_label;
