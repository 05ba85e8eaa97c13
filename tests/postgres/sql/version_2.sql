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
) WHERE json_typeof(body) = 'object';
CREATE INDEX delay_flow ON {schema}.delay (flow, due, id);
DROP INDEX {schema}.delay_state;
CREATE INDEX delay_state ON {schema}.delay (state_id, rev, due);
CREATE INDEX delay_written ON {schema}.delay (written);
CREATE INDEX delay_refs ON {schema}.delay USING gin (refs) WITH (fastupdate = off)
    WHERE refs IS NOT NULL;

-- flow: where the state went last.
ALTER TABLE {schema}.latest ADD COLUMN flow text COLLATE "C" NOT NULL DEFAULT '';
UPDATE {schema}.latest SET flow = coalesce(log.body -> 'transition' ->> 'to', '')
    FROM {schema}.log WHERE log.rev = latest.rev AND latest.stalls_at IS NOT NULL;
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
-- The functions of a store. Each migration makes them all again. They look for nothing along the
-- user's search_path, where another function of the same name may come first.

-- Times as drivers take and give them: microseconds since 1970, UTC. What is no time to a driver
-- becomes a number that is none either, so that it fails no other row.
CREATE FUNCTION {schema}.to_micros(moment timestamptz) RETURNS bigint
LANGUAGE sql STABLE RETURN CASE
    WHEN isfinite(moment)
        THEN least(extract(epoch FROM moment) * 1000000, 9223372036854775807)::bigint
    WHEN moment IS NOT NULL THEN 9223372036854775807
END;
CREATE FUNCTION {schema}.from_micros(micros bigint) RETURNS timestamptz
LANGUAGE sql STABLE RETURN timestamptz '1970-01-01 00:00:00+00' + make_interval(
    -- In two parts, because a float cannot hold every microsecond until the year 9999.
    hours => (micros / 3600000000)::integer, secs => (micros % 3600000000)::float8 / 1000000
);

-- The labels of a revision; none if they are damaged.
CREATE FUNCTION {schema}.labels_of(body json) RETURNS json
LANGUAGE sql IMMUTABLE RETURN CASE WHEN json_typeof(body -> 'labels') = 'object' THEN body -> 'labels' END;

-- So many microseconds after a moment, but no later than drivers can tell; null if they are negative.
CREATE FUNCTION {schema}.later(moment timestamptz, micros bigint) RETURNS timestamptz
LANGUAGE sql STABLE RETURN CASE WHEN micros >= 0 THEN least(
    moment + micros * interval '1 microsecond', timestamptz '9999-12-31 23:59:59.999999+00'
) END;

-- Held to the end of every transaction that writes revisions or removes data: it makes revisions
-- dense, and visible in their order. To be taken in a statement of its own, because what is read
-- afterwards must come from a later snapshot. Commits that wait too long give up, and their drivers
-- try again.
CREATE FUNCTION {schema}.lock_commits() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'commits need the isolation level read committed, not %; '
            'see default_transaction_isolation', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock(1718382455, '{schema}.log'::regclass::oid::integer);
END
$$;

-- When a delay of a batch is due: at a time, or some time after the moment of the commit.
CREATE FUNCTION {schema}.due_at(delay jsonb, moment timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE RETURN coalesce(
    {schema}.from_micros((delay ->> 5)::bigint),
    {schema}.later(moment, least((delay ->> 6)::numeric, 9e18)::bigint)
);

-- Judges a batch of independent commits one after the other, and stores what is not refused.
--
-- counts: how many commits and ids the batch has; then for each put, in the order of the
--   commits: the place of its commit, of its id, the revision that it expects, and after how
--   many microseconds it stalls, -1 for never; at last how many milliseconds to wait for
--   locks, if it is less than two seconds.
-- words: a token for each commit, then the ids, then status, flow and body of each put.
-- rest: null, or what only some commits have:
--   by place of commit, checks [id, rev], needs [checksum], claims [delay, holder, microseconds],
--   drops [delay, holder]; and lists of all of data [commit, checksum, annotations],
--   labels [put, key, value], references [put, checksum],
--   delays [commit, delay, put or null, id, rev, due or null, after or null, body, flow, checksums].
--   Places count from 1; due and after are microseconds.
-- blobs: of rest.data.
--
-- revs: what each put got; null for those that were refused.
-- stamp: when they were committed, in microseconds; rises with revisions.
-- untils: when the earliest delay of each put is due, in microseconds; null if rest has none.
-- mismatched: places of commit and id, one pair after the other, of what was not as expected.
-- missing: [commit, checksum] of what was needed and is not stored.
-- lost: [commit, delay] of claims that were refused.
-- heard: whether a session listens: it holds the lock 1718382456 shared.
CREATE FUNCTION {schema}.commit(
    counts bigint[], words text[], rest jsonb, blobs bytea[],
    OUT revs bigint[], OUT stamp bigint, OUT untils bigint[],
    OUT mismatched integer[], OUT missing jsonb, OUT lost jsonb, OUT heard boolean
) LANGUAGE plpgsql
-- The lists are short and the tables are large, which the planner cannot know.
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    commits constant integer := counts[1];
    ids constant integer := counts[2];
    puts constant integer := (cardinality(counts) - 2) / 4;
    before_first_put constant integer := commits + ids - 3;
    has_checks constant boolean := coalesce(rest ? 'checks', false);
    has_needs constant boolean := coalesce(rest ? 'needs', false);
    has_claims constant boolean := coalesce(rest ?| '{claims,drops}', false);
    asked jsonb;
    number bigint;
    moment timestamptz;
    committed timestamptz;
    until timestamptz[];
    head bigint;
    last timestamptz;
    stored bigint[];  -- By place of id.
    had_labels boolean[];
    had_delays boolean[];  -- Perhaps, if the state is new: a delay can be stored before it.
    current bigint[];
    last_put integer[];
    refused boolean[] := array_fill(false, ARRAY[commits]);
    put_labels boolean[];  -- By place of put: whether it has any.
    first_put integer := 1;
    next_put integer := 1;
    here integer;
    here_until timestamptz;
    replaced text[] := '{}';  -- Ids that the batch has put; their older delays are as good as gone.
BEGIN
    IF counts[cardinality(counts)] < 2000 THEN
        PERFORM set_config('lock_timeout', counts[cardinality(counts)]::text, true);
    END IF;
    PERFORM {schema}.lock_commits();
    heard := NOT pg_try_advisory_xact_lock(1718382456, '{schema}.log'::regclass::oid::integer);
    moment := clock_timestamp();
    SELECT log.rev, log.committed_at INTO head, last FROM {schema}.log ORDER BY rev DESC LIMIT 1;
    head := coalesce(head, 0);
    -- A damaged time is not handed on.
    committed := greatest(
        moment, CASE WHEN last <= timestamptz '9999-12-31 23:59:59.999999+00' THEN last END
    );
    stamp := {schema}.to_micros(committed);

    -- One put of a state without labels and delays: a lone commit is mostly that, and takes two
    -- thirds of the time this way.
    IF puts = 1 AND commits = 1 AND rest IS NULL THEN
        UPDATE {schema}.latest SET rev = head + 1, status = words[3], flow = words[4],
                stalls_at = {schema}.later(moment, counts[6]),
                stalls_after = nullif(counts[6], -1), beat_at = NULL, note = NULL
            WHERE id = words[2] AND rev = counts[5] AND NOT labelled AND NOT delayed;
        IF FOUND THEN
            revs := ARRAY[head + 1];
            INSERT INTO {schema}.log VALUES (
                head + 1, words[2], counts[5], words[3], committed, NULL, words[1], words[5]::json
            );
            RETURN;
        END IF;
    END IF;

    SELECT array_agg(coalesce(latest.rev, 0) ORDER BY place),
            array_agg(latest.labelled ORDER BY place),
            array_agg(coalesce(latest.delayed, true) ORDER BY place)
        INTO stored, had_labels, had_delays
        FROM unnest(words[commits + 1 : commits + ids]) WITH ORDINALITY AS named (id, place)
        LEFT JOIN {schema}.latest ON latest.id = named.id;
    current := stored;
    revs := array_fill(NULL::bigint, ARRAY[puts]);
    last_put := array_fill(NULL::integer, ARRAY[ids]);
    put_labels := array_fill(false, ARRAY[puts]);
    mismatched := '{}';

    FOR place IN 1 .. commits LOOP
        WHILE next_put <= puts AND counts[4 * next_put - 1] = place LOOP
            here := counts[4 * next_put];
            IF current[here] <> counts[4 * next_put + 1] THEN
                refused[place] := true;
                mismatched := mismatched || ARRAY[place, here];
            END IF;
            next_put := next_put + 1;
        END LOOP;
        IF has_checks THEN
            FOR here IN
                SELECT (checked ->> 0)::integer
                FROM jsonb_array_elements(rest -> 'checks' -> place::text) AS checked
                WHERE current[(checked ->> 0)::integer] <> (checked ->> 1)::bigint
            LOOP
                refused[place] := true;
                mismatched := mismatched || ARRAY[place, here];
            END LOOP;
        END IF;
        IF has_needs AND NOT refused[place] THEN
            SELECT jsonb_agg(jsonb_build_array(place, needed ->> 0)) INTO asked
                FROM jsonb_array_elements(rest -> 'needs' -> place::text) AS needed
                WHERE NOT EXISTS (SELECT FROM {schema}.data WHERE checksum = needed ->> 0)
                    AND NOT EXISTS (
                        SELECT FROM jsonb_array_elements(rest -> 'data') AS brought
                        WHERE brought ->> 1 = needed ->> 0
                            AND (brought ->> 0)::integer <= place
                            AND NOT refused[(brought ->> 0)::integer]
                    );
            IF asked IS NOT NULL THEN
                refused[place] := true;
                missing := coalesce(missing, '[]') || asked;
            END IF;
        END IF;
        IF has_claims AND NOT refused[place] THEN
            asked := rest -> 'claims' -> place::text;
            -- All of them or none.
            WITH granted AS MATERIALIZED (
                SELECT delay.id, claim FROM jsonb_array_elements(asked) AS claim
                JOIN {schema}.delay ON delay.id = claim ->> 0
                WHERE (delay.due <= moment OR delay.holder = claim ->> 1)
                    AND delay.state_id <> ALL (replaced)
            ), changed AS (
                UPDATE {schema}.delay SET holder = claim ->> 1,
                        due = {schema}.later(moment, (claim ->> 2)::bigint)
                    FROM granted WHERE delay.id = granted.id
                        AND (SELECT count(*) FROM granted) = jsonb_array_length(asked)
            )
            SELECT jsonb_agg(jsonb_build_array(place, claim ->> 0)) INTO asked
                FROM jsonb_array_elements(asked) AS claim
                WHERE claim ->> 0 NOT IN (SELECT id FROM granted);
            IF asked IS NOT NULL THEN
                refused[place] := true;
                lost := coalesce(lost, '[]') || asked;
            END IF;
        END IF;
        IF NOT refused[place] THEN
            FOR put IN first_put .. next_put - 1 LOOP
                head := head + 1;
                here := counts[4 * put];
                revs[put] := head;
                current[here] := head;
                last_put[here] := put;
                IF has_claims THEN
                    replaced := replaced || words[commits + here];
                END IF;
            END LOOP;
            IF has_claims THEN
                DELETE FROM {schema}.delay
                    USING jsonb_array_elements(rest -> 'drops' -> place::text) AS dropped
                    WHERE id = dropped ->> 0 AND holder = dropped ->> 1;
            END IF;
        END IF;
        first_put := next_put;
    END LOOP;

    IF rest IS NOT NULL THEN
        FOR here IN
            SELECT DISTINCT (label ->> 0)::integer FROM jsonb_array_elements(rest -> 'labels') AS label
        LOOP
            put_labels[here] := true;
        END LOOP;
        IF rest ? 'delays' THEN
            until := array_fill(NULL::timestamptz, ARRAY[puts]);
            FOR here, here_until IN
                SELECT (delay ->> 2)::integer, min({schema}.due_at(delay, moment))
                FROM jsonb_array_elements(rest -> 'delays') AS delay
                WHERE delay ->> 2 IS NOT NULL GROUP BY 1
            LOOP
                until[here] := here_until;
            END LOOP;
            untils := ARRAY(SELECT {schema}.to_micros(item) FROM unnest(until) AS item);
        END IF;
    END IF;

    IF true = ANY (had_labels) THEN
        -- In two steps, because in one the planner may begin with every label that there is.
        WITH outdated AS MATERIALIZED (
            SELECT pair.key, pair.value, log.status, log.rev
            FROM generate_series(1, ids) AS slot JOIN {schema}.log ON log.rev = stored[slot],
                json_each_text({schema}.labels_of(log.body)) AS pair
            WHERE had_labels[slot] AND last_put[slot] IS NOT NULL
        )
        DELETE FROM {schema}.latest_label AS old USING outdated
            WHERE old.key = outdated.key AND old.value = outdated.value
                AND old.status = outdated.status AND old.rev = outdated.rev;
    END IF;
    IF true = ANY (had_delays) THEN
        DELETE FROM {schema}.delay AS old USING generate_series(1, ids) AS slot
            WHERE had_delays[slot] AND last_put[slot] IS NOT NULL AND old.state_id = words[commits + slot];
    END IF;
    INSERT INTO {schema}.log
        SELECT revs[put], words[commits + counts[4 * put]], counts[4 * put + 1],
            words[before_first_put + 3 * put + 1], committed, until[put], words[counts[4 * put - 1]],
            words[before_first_put + 3 * put + 3]::json
        FROM generate_series(1, puts) AS put WHERE revs[put] IS NOT NULL;
    INSERT INTO {schema}.latest (id, rev, status, flow, labelled, delayed, stalls_at, stalls_after)
        SELECT words[commits + slot], current[slot], words[before_first_put + 3 * put + 1],
            words[before_first_put + 3 * put + 2], put_labels[put], false,
            {schema}.later(coalesce(until[put], moment), counts[4 * put + 2]),
            nullif(counts[4 * put + 2], -1)
        FROM generate_series(1, ids) AS slot, LATERAL (SELECT last_put[slot]) AS last (put)
        WHERE put IS NOT NULL
        ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, status = excluded.status,
            flow = excluded.flow, labelled = excluded.labelled, delayed = excluded.delayed,
            stalls_at = excluded.stalls_at, stalls_after = excluded.stalls_after,
            beat_at = NULL, note = NULL;
    IF rest ? 'labels' THEN
        WITH named AS MATERIALIZED (
            SELECT label ->> 1 AS key, label ->> 2 AS value, revs[put] AS rev,
                words[before_first_put + 3 * put + 1] AS status
            FROM jsonb_array_elements(rest -> 'labels') AS label,
                LATERAL (SELECT (label ->> 0)::integer) AS place (put)
            WHERE revs[put] IS NOT NULL
        ), every AS (INSERT INTO {schema}.label (key, value, rev) SELECT key, value, rev FROM named)
        INSERT INTO {schema}.latest_label (key, value, rev, status)
            SELECT key, value, rev, status FROM named WHERE rev = ANY (current);
    END IF;
    IF rest ? 'references' THEN
        INSERT INTO {schema}.data_reference (rev, checksum)
            SELECT DISTINCT revs[(reference ->> 0)::integer], reference ->> 1
            FROM jsonb_array_elements(rest -> 'references') AS reference
            WHERE revs[(reference ->> 0)::integer] IS NOT NULL;
    END IF;
    IF rest ? 'data' THEN
        INSERT INTO {schema}.data (checksum, stored_at, annotations, blob)
            SELECT DISTINCT ON (item ->> 1) item ->> 1, head, (item ->> 2)::json, blobs[place]
            FROM jsonb_array_elements(rest -> 'data') WITH ORDINALITY AS brought (item, place)
            WHERE NOT refused[(item ->> 0)::integer]
            ON CONFLICT (checksum) DO UPDATE SET stored_at = excluded.stored_at;
    END IF;
    IF rest ? 'delays' THEN
        SELECT greatest({schema}.to_micros(moment), max(written) + 1) INTO number FROM {schema}.delay;
        -- A delay is outdated already if a later commit of the batch has put its state. One that
        -- belongs to no put lets the latest revision stall no earlier than it allows; the others
        -- count already.
        WITH added AS (
            INSERT INTO {schema}.delay (id, state_id, rev, due, body, flow, refs, written)
                SELECT delay ->> 1, words[commits + (delay ->> 3)::integer],
                    coalesce(revs[(delay ->> 2)::integer], (delay ->> 4)::bigint),
                    {schema}.due_at(delay, moment), (delay ->> 7)::json, delay ->> 8,
                    CASE WHEN delay -> 9 <> '[]' THEN
                        ARRAY(SELECT jsonb_array_elements_text(delay -> 9))
                    END, number
                FROM jsonb_array_elements(rest -> 'delays') AS delay
                WHERE NOT refused[(delay ->> 0)::integer]
                    AND coalesce(
                        counts[4 * last_put[(delay ->> 3)::integer] - 1] <= (delay ->> 0)::integer, true
                    )
                ON CONFLICT (id) DO NOTHING
                RETURNING state_id, rev, due, body -> 'state' IS NOT NULL AS by_itself
        )
        UPDATE {schema}.latest
            SET delayed = true, stalls_at = CASE WHEN found.latest_due IS NULL THEN stalls_at
                ELSE greatest(stalls_at, {schema}.later(found.latest_due, stalls_after)) END
            FROM (
                SELECT state_id, max(added.due) FILTER (
                    WHERE added.by_itself AND added.rev = known.rev
                ) AS latest_due
                FROM added JOIN {schema}.latest AS known ON known.id = added.state_id
                GROUP BY state_id
            ) AS found
            WHERE latest.id = found.state_id;
    END IF;
END
$$;

-- Notes heartbeats; returns for each whether its revision is the latest of its state, and null where
-- the row was locked, so that it must be asked again: a commit may be about to replace the revision.
--
-- It waits for no row, so it takes part in no deadlock, in whatever order commits take their rows.
--
-- micros: how long from now each state may stand still; null changes nothing about that.
CREATE FUNCTION {schema}.beat(ids text[], revs bigint[], micros bigint[], notes text[])
RETURNS boolean[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    moment constant timestamptz := clock_timestamp();
    answers boolean[];
    here bigint;
BEGIN
    -- To the end of the transaction, because it is there that it counts: a crash may take them.
    PERFORM set_config('synchronous_commit', 'off', true);
    answers := ARRAY(
        SELECT CASE WHEN latest.rev = asked.rev THEN NULL ELSE false END
        FROM unnest(ids, revs) WITH ORDINALITY AS asked (id, rev, place)
        LEFT JOIN {schema}.latest ON latest.id = asked.id ORDER BY asked.place
    );
    FOR here IN
        WITH held AS MATERIALIZED (
            SELECT asked.* FROM unnest(ids, revs, micros, notes) WITH ORDINALITY
                AS asked (id, rev, micros, note, place)
            JOIN {schema}.latest ON latest.id = asked.id AND latest.rev = asked.rev
            FOR NO KEY UPDATE OF latest SKIP LOCKED
        )
        UPDATE {schema}.latest SET note = held.note,
            beat_at = moment + CASE WHEN beat_at = moment THEN interval '1 microsecond'
                ELSE interval '0' END,
            stalls_at = CASE WHEN stalls_at IS NULL OR held.micros IS NULL THEN stalls_at
                ELSE {schema}.later(moment, held.micros) END
        FROM held WHERE latest.id = held.id RETURNING held.place
    LOOP
        answers[here] := true;
    END LOOP;
    RETURN answers;
END
$$;

-- Removes outdated revisions above a cursor and below before_rev, at most so many; moves the floor.
-- resume: after which revision to go on; null at the end.
CREATE FUNCTION {schema}.compact_some(
    after bigint, before_rev bigint, chunk integer, OUT removed integer, OUT resume bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    target bigint := least(before_rev, (SELECT coalesce(max(rev), 0) FROM {schema}.log));
    doomed bigint[];
BEGIN
    SELECT max(rev) INTO resume FROM (
        SELECT rev FROM {schema}.log WHERE rev > after AND rev < target ORDER BY rev LIMIT chunk
    ) AS found;
    UPDATE {schema}.meta SET floor = coalesce(resume + 1, greatest(target, 1))
        WHERE floor < coalesce(resume + 1, greatest(target, 1));
    doomed := ARRAY(
        SELECT log.rev FROM {schema}.log WHERE log.rev > after AND log.rev <= resume AND NOT EXISTS (
            SELECT FROM {schema}.latest WHERE latest.id = log.id AND latest.rev = log.rev
        )
    );
    -- In two steps, because in one Postgres 15 looks for each revision in the whole index.
    WITH outdated AS MATERIALIZED (
        SELECT pair.key, pair.value, log.rev
        FROM {schema}.log, json_each_text({schema}.labels_of(log.body)) AS pair WHERE log.rev = ANY (doomed)
    )
    DELETE FROM {schema}.label AS old USING outdated
        WHERE old.key = outdated.key AND old.value = outdated.value AND old.rev = outdated.rev;
    DELETE FROM {schema}.data_reference WHERE rev = ANY (doomed);
    DELETE FROM {schema}.log WHERE rev = ANY (doomed);
    removed := cardinality(doomed);
END
$$;

-- Removes blobs that no revision and no delay refers to and that were stored before a revision. It
-- looks at a limited number, in the order of their checksums, and removes up to so many bytes at a
-- time, since commits wait meanwhile. They are looked for before it takes the lock of commits, and
-- looked at again while it holds it, because one may have referred to them meanwhile.
-- resume: after which checksum to go on; null at the end.
CREATE FUNCTION {schema}.drop_unreferenced(
    after text, before_rev bigint, chunk integer, bytes bigint, OUT resume text
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    looked_at constant text[] := ARRAY(
        SELECT checksum FROM {schema}.data WHERE checksum > after ORDER BY checksum LIMIT chunk
    );
    doomed text[] := '{}';
    here text;
    size bigint;
BEGIN
    resume := looked_at[cardinality(looked_at)];
    FOR here, size IN
        SELECT checksum, octet_length(blob) FROM {schema}.data
        WHERE checksum = ANY (looked_at) AND stored_at < before_rev
            AND NOT EXISTS (
                SELECT FROM {schema}.data_reference AS used WHERE used.checksum = data.checksum
            )
            AND NOT EXISTS (SELECT FROM {schema}.delay WHERE refs @> ARRAY[data.checksum])
        ORDER BY checksum
    LOOP
        doomed := doomed || here;
        bytes := bytes - size;
        IF bytes <= 0 THEN
            resume := here;
            EXIT;
        END IF;
    END LOOP;
    IF cardinality(doomed) > 0 THEN
        PERFORM {schema}.lock_commits();
        DELETE FROM {schema}.data WHERE checksum = ANY (doomed) AND stored_at < before_rev
            AND NOT EXISTS (
                SELECT FROM {schema}.data_reference AS used WHERE used.checksum = data.checksum
            )
            AND NOT EXISTS (SELECT FROM {schema}.delay WHERE refs @> ARRAY[data.checksum]);
    END IF;
END
$$;

-- The last revision that was committed before a time; times rise with revisions.
CREATE FUNCTION {schema}.last_before(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := 0;
    high bigint := (SELECT coalesce(max(rev), 0) FROM {schema}.log);
    middle bigint;
    committed timestamptz;
BEGIN
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT committed_at INTO committed FROM {schema}.log
            WHERE rev <= middle ORDER BY rev DESC LIMIT 1;
        IF committed >= moment THEN
            high := middle - 1;
        ELSE
            low := middle;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
