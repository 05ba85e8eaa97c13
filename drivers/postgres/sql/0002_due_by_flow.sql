-- What is due is found by flow, a delay knows who has claimed it and which blobs it needs, and the
-- latest revisions with a label are found by status.
UPDATE {schema}.meta SET version = 2;

DROP FUNCTION IF EXISTS
    {schema}.commit, {schema}.store_rest, {schema}.store_delays, {schema}.due_at,
    {schema}.beat, {schema}.compact_some, {schema}.drop_unreferenced, {schema}.last_before,
    {schema}.lock_commits, {schema}.start_listening, {schema}.stop_listening,
    {schema}.later, {schema}.from_micros, {schema}.to_micros;

-- flow: where the delay goes; empty if that cannot be read. holder: who has claimed it last.
-- written: rises from one commit with delays to the next. refs: the blobs that it needs.
ALTER TABLE {schema}.delay
    ADD COLUMN flow text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN holder text COLLATE "C",
    ADD COLUMN written bigint NOT NULL DEFAULT 0,
    ADD COLUMN refs text[] COLLATE "C";
UPDATE {schema}.delay SET flow = coalesce(body ->> 'to', ''), refs = (
    SELECT array_agg(DISTINCT ref.value ->> 'checksum') FROM json_each(
        CASE WHEN json_typeof(body -> 'state' -> 'data') = 'object' THEN body -> 'state' -> 'data' END
    ) AS ref WHERE ref.value ->> 'checksum' IS NOT NULL
) WHERE body::text !~ E'\\\\u(0000|[dD][89a-fA-F])' AND json_typeof(body) = 'object';
CREATE INDEX delay_flow ON {schema}.delay (flow, due, id);
DROP INDEX {schema}.delay_state;
CREATE INDEX delay_state ON {schema}.delay (state_id, rev, due);
CREATE INDEX delay_written ON {schema}.delay (written);
CREATE INDEX delay_refs ON {schema}.delay USING gin (refs) WITH (fastupdate = off)
    WHERE refs IS NOT NULL;

-- flow: where the state went last.
ALTER TABLE {schema}.latest ADD COLUMN flow text COLLATE "C" NOT NULL DEFAULT '';
UPDATE {schema}.latest SET flow = coalesce(log.body -> 'transition' ->> 'to', '')
    FROM {schema}.log WHERE log.rev = latest.rev AND latest.stalls_at IS NOT NULL
        AND log.body::text !~ E'\\\\u(0000|[dD][89a-fA-F])';
DROP INDEX {schema}.latest_stalls_at;
CREATE INDEX latest_flow ON {schema}.latest (flow, stalls_at, id) WHERE stalls_at IS NOT NULL;

ALTER TABLE {schema}.latest_label
    DROP CONSTRAINT latest_label_pkey,
    ADD COLUMN status text COLLATE "C" NOT NULL DEFAULT '';
UPDATE {schema}.latest_label SET status = log.status
    FROM {schema}.log WHERE log.rev = latest_label.rev;
ALTER TABLE {schema}.latest_label
    ALTER COLUMN status DROP DEFAULT,
    ADD PRIMARY KEY (key, value, status, rev);
