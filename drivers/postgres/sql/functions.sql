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

-- The labels of a revision; none if they are damaged. A column for JSON takes escapes that stand for
-- no character, but no operator of JSON takes a text that has any, wherever they are. They are
-- replaced: one damaged body must not keep its state from moving on.
CREATE FUNCTION {schema}.labels_of(body json) RETURNS TABLE (key text, value text)
LANGUAGE sql IMMUTABLE BEGIN ATOMIC
    -- The offset keeps the text from being read twice.
    SELECT pair.key, pair.value FROM (
        SELECT CASE WHEN strpos(body::text, E'\\u') = 0 THEN body ELSE regexp_replace(
            body::text,
            E'(?<!\\\\)((?:\\\\\\\\)*)\\\\u(0000|[dD][89abAB]..(?!\\\\u[dD][c-fC-F])'
                '|(?<!\\\\u[dD][89abAB]..\\\\u)[dD][c-fC-F]..)',
            E'\\1\\\\ufffd', 'g'
        )::json END -> 'labels' AS labels OFFSET 0
    ) AS found, json_each_text(CASE WHEN json_typeof(labels) = 'object' THEN labels END) AS pair;
END;

-- Whether a delay has a state of its own; not if it is damaged.
CREATE FUNCTION {schema}.has_state(body json) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN CASE
    WHEN body::text ~ E'\\\\u(0000|[dD][89a-fA-F])' THEN strpos(body::text, '"state":') > 0
    ELSE json_typeof(body) = 'object' AND body -> 'state' IS NOT NULL
END;

-- So many microseconds after a moment, but no later than drivers can tell; null if they are negative.
CREATE FUNCTION {schema}.later(moment timestamptz, micros bigint) RETURNS timestamptz
LANGUAGE sql STABLE RETURN CASE WHEN micros >= 0 THEN least(
    moment + micros * interval '1 microsecond', timestamptz '9999-12-31 23:59:59.999999+00'
) END;

-- When a state stalls, so many microseconds after a moment. If they are -1 it never does: that is at
-- infinity, so that it is found by its flow as the others are, or null if it has ended.
CREATE FUNCTION {schema}.stalling(moment timestamptz, micros bigint, status text) RETURNS timestamptz
LANGUAGE sql STABLE RETURN coalesce(
    {schema}.later(moment, micros),
    CASE WHEN micros = -1 AND status <> 'ended' THEN timestamptz 'infinity' END
);

-- Held to the end of every transaction that writes revisions or removes data: it makes revisions
-- dense, and visible in their order. To be taken in a statement of its own, because what is read
-- afterwards must come from a later snapshot. Commits that wait too long give up, and their drivers
-- try again. It is an expression, because every commit pays for the call of a function.
CREATE FUNCTION {schema}.refuse(isolation text) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'commits need the isolation level read committed, not %; '
        'see default_transaction_isolation', isolation USING ERRCODE = 'invalid_transaction_state';
END
$$;
CREATE FUNCTION {schema}.lock_commits() RETURNS boolean
LANGUAGE sql VOLATILE RETURN CASE current_setting('transaction_isolation')
    WHEN 'read committed'
        THEN pg_advisory_xact_lock(1718382455, '{schema}.log'::regclass::oid::integer) IS NOT NULL
    ELSE {schema}.refuse(current_setting('transaction_isolation'))
END;

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
            -- The time always rises, so that a heartbeat can be told from those before it.
            beat_at = CASE WHEN beat_at >= moment AND beat_at < '9999-12-31 23:59:59.999999+00'
                THEN beat_at + interval '1 microsecond' ELSE moment END,
            stalls_at = CASE WHEN isfinite(stalls_at) AND held.micros IS NOT NULL
                THEN {schema}.later(moment, held.micros) ELSE stalls_at END
        FROM held WHERE latest.id = held.id RETURNING held.place
    LOOP
        answers[here] := true;
    END LOOP;
    RETURN answers;
END
$$;

-- Removes outdated revisions above a cursor and below before_rev, at most so many; moves the floor.
-- A state that is forgotten has none that is not.
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
    forgotten text[];
BEGIN
    SELECT max(rev) INTO resume FROM (
        SELECT rev FROM {schema}.log WHERE rev > after AND rev < target ORDER BY rev LIMIT chunk
    ) AS found;
    UPDATE {schema}.meta SET floor = coalesce(resume + 1, greatest(target, 1))
        WHERE floor < coalesce(resume + 1, greatest(target, 1));
    SELECT coalesce(array_agg(log.rev), '{}'), array_agg(log.id) FILTER (WHERE latest.rev = -log.rev)
        INTO doomed, forgotten
        FROM {schema}.log
        LEFT JOIN LATERAL (
            SELECT latest.rev FROM {schema}.latest WHERE latest.id = log.id OFFSET 0
        ) AS latest ON abs(latest.rev) = log.rev
        WHERE log.rev > after AND log.rev <= resume AND latest.rev IS DISTINCT FROM log.rev;
    -- One look into the index for each, because with statistics of an almost empty table Postgres
    -- would compare each of them with each row.
    DELETE FROM {schema}.label WHERE ctid = ANY (ARRAY(
        SELECT old.place FROM {schema}.log, {schema}.labels_of(log.body) AS pair, LATERAL (
            SELECT label.ctid AS place FROM {schema}.label
            WHERE label.key = pair.key AND label.value = pair.value AND label.rev = log.rev
            OFFSET 0
        ) AS old WHERE log.rev = ANY (doomed)
    ));
    DELETE FROM {schema}.data_reference WHERE rev = ANY (doomed);
    DELETE FROM {schema}.log WHERE rev = ANY (doomed);
    removed := cardinality(doomed);
    IF forgotten IS NOT NULL THEN
        -- A commit that begins one of them again holds its row, and may wait for another one.
        PERFORM {schema}.lock_commits();
        DELETE FROM {schema}.latest WHERE id = ANY (forgotten) AND rev BETWEEN -resume AND -1;
    END IF;
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
