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
--   many microseconds it stalls, -1 for never, -2 if it is forgotten; at last how many milliseconds to wait for
--   locks, if it is less than two seconds.
-- words: a token for each commit, then the ids, then status, flow and body of each put.
-- rest: null, or what only some commits have:
--   by place of commit, checks [id, rev], needs [checksum], claims [delay, holder, microseconds],
--   drops [delay, holder]; and lists of all of data [commit, checksum, annotations],
--   labels [put, key, value], references [put, checksum],
--   delays [commit, delay, put or null, id, rev, due or null, after or null, body, flow, checksums],
--   timers [commit, timer, put, null, -1, due or null, after or null, body, flow];
--   keeps [put, until when it is delayed or null]; and forgets: whether a put is forgotten.
--   Places count from 1; due and after are microseconds.
-- blobs: of rest.data.
--
-- Of a put that keeps something, the state takes over the delays that were committed with it, and
-- stalls no later than before.
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
    has_keeps constant boolean := coalesce(rest ? 'keeps', false);
    has_special boolean;  -- Claims, drops, or states that are forgotten or kept.
    locked boolean;
    asked jsonb;
    number bigint;
    moment timestamptz;
    committed timestamptz;
    until timestamptz[];
    head bigint;
    last timestamptz;
    stored bigint[];  -- By place of id; negative if the state was forgotten with that revision.
    had_labels boolean[];
    had_delays boolean[];  -- Perhaps, if the state is new: a delay can be stored before it.
    stalled timestamptz[];  -- By place of id: when it stalls as things are; only if some put keeps.
    rules bigint[];  -- And after how many microseconds.
    current bigint[];
    last_put integer[];
    last_move integer[];  -- The last put that drops the delays of before.
    refused boolean[] := array_fill(false, ARRAY[commits]);
    put_labels boolean[];  -- By place of put: whether it has any.
    keeps boolean[];  -- By place of put.
    first_put integer := 1;
    next_put integer := 1;
    here integer;
    here_until timestamptz;
    replaced text[] := '{}';  -- Ids that the batch has put; their older delays are as good as gone.
BEGIN
    IF counts[cardinality(counts)] < 2000 THEN
        PERFORM set_config('lock_timeout', counts[cardinality(counts)]::text, true);
    END IF;
    locked := {schema}.lock_commits();
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
                stalls_at = {schema}.stalling(moment, counts[6], words[3]),
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
        -- Not as a plain join: with statistics of an almost empty table it reads all of it.
        LEFT JOIN LATERAL (
            SELECT * FROM {schema}.latest WHERE latest.id = named.id OFFSET 0
        ) AS latest ON true;
    current := stored;
    revs := array_fill(NULL::bigint, ARRAY[puts]);
    last_put := array_fill(NULL::integer, ARRAY[ids]);
    put_labels := array_fill(false, ARRAY[puts]);
    mismatched := '{}';
    has_special := has_claims OR has_keeps OR coalesce(rest ? 'forgets', false) OR 0 > ANY (stored);
    IF has_keeps THEN
        keeps := array_fill(false, ARRAY[puts]);
        until := array_fill(NULL::timestamptz, ARRAY[puts]);
        last_move := last_put;
        FOR here, here_until IN
            SELECT (kept ->> 0)::integer, {schema}.from_micros((kept ->> 1)::bigint)
            FROM jsonb_array_elements(rest -> 'keeps') AS kept
        LOOP
            keeps[here] := true;
            until[here] := here_until;
        END LOOP;
        SELECT array_agg(CASE WHEN isfinite(latest.stalls_at) THEN latest.stalls_at END ORDER BY place),
                array_agg(latest.stalls_after ORDER BY place)
            INTO stalled, rules
            FROM unnest(words[commits + 1 : commits + ids]) WITH ORDINALITY AS named (id, place)
            LEFT JOIN LATERAL (
                SELECT * FROM {schema}.latest WHERE latest.id = named.id OFFSET 0
            ) AS latest ON true;
    END IF;
    IF rest ?| '{delays,keeps}' THEN
        until := coalesce(until, array_fill(NULL::timestamptz, ARRAY[puts]));
        FOR here, here_until IN
            SELECT (delay ->> 2)::integer, min({schema}.due_at(delay, moment))
            FROM jsonb_array_elements(rest -> 'delays') AS delay
            WHERE delay ->> 2 IS NOT NULL GROUP BY 1
        LOOP
            until[here] := here_until;
        END LOOP;
        untils := ARRAY(SELECT {schema}.to_micros(item) FROM unnest(until) AS item);
    END IF;

    FOR place IN 1 .. commits LOOP
        WHILE next_put <= puts AND counts[4 * next_put - 1] = place LOOP
            here := counts[4 * next_put];
            IF current[here] <> counts[4 * next_put + 1]
                AND (current[here] >= 0 OR counts[4 * next_put + 1] <> 0)
            THEN
                refused[place] := true;
                mismatched := mismatched || ARRAY[place, here];
            END IF;
            next_put := next_put + 1;
        END LOOP;
        IF has_checks THEN
            FOR here IN
                SELECT (checked ->> 0)::integer
                FROM jsonb_array_elements(rest -> 'checks' -> place::text) AS checked
                WHERE greatest(current[(checked ->> 0)::integer], 0) <> (checked ->> 1)::bigint
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
                    AND (delay.rev < 0 OR delay.state_id <> ALL (replaced))
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
                last_put[here] := put;
                IF has_special THEN
                    IF keeps[put] THEN
                        DELETE FROM {schema}.delay WHERE state_id = words[commits + here]
                            AND rev <> -1 AND {schema}.has_state(body);
                    ELSE
                        replaced := replaced || words[commits + here];
                        IF has_keeps THEN
                            last_move[here] := put;
                        END IF;
                    END IF;
                    IF has_keeps THEN
                        here_until := {schema}.stalling(
                            coalesce(until[put], moment), counts[4 * put + 2],
                            words[before_first_put + 3 * put + 1]
                        );
                        stalled[here] := CASE WHEN isfinite(here_until)
                            THEN least(here_until, CASE WHEN keeps[put] THEN stalled[here] END) END;
                        rules[here] := counts[4 * put + 2];
                    END IF;
                    IF current[here] < 0 THEN  -- It begins again; the chain of its revisions goes on.
                        counts[4 * put + 1] := -current[here];
                    END IF;
                    current[here] := CASE WHEN counts[4 * put + 2] = -2 THEN -head ELSE head END;
                ELSE
                    current[here] := head;
                END IF;
            END LOOP;
            IF has_claims THEN
                DELETE FROM {schema}.delay
                    USING jsonb_array_elements(rest -> 'drops' -> place::text) AS dropped
                    WHERE id = dropped ->> 0 AND coalesce(holder, '') = dropped ->> 1;
            END IF;
            IF has_keeps THEN
                FOR here, here_until IN
                    SELECT (delay ->> 3)::integer, max({schema}.due_at(delay, moment))
                    FROM jsonb_array_elements(rest -> 'delays') AS delay
                    WHERE (delay ->> 0)::integer = place AND delay ->> 2 IS NULL
                        AND (delay ->> 4)::bigint = current[(delay ->> 3)::integer]
                    GROUP BY 1
                LOOP
                    IF stalled[here] IS NOT NULL THEN
                        stalled[here] := greatest(
                            stalled[here], {schema}.later(here_until, rules[here])
                        );
                    END IF;
                END LOOP;
            END IF;
        END IF;
        first_put := next_put;
    END LOOP;

    IF NOT has_keeps THEN
        last_move := last_put;
    END IF;
    IF rest IS NOT NULL THEN
        FOR here IN
            SELECT (label ->> 0)::integer FROM jsonb_array_elements(rest -> 'labels') AS label
        LOOP
            put_labels[here] := true;
        END LOOP;
    END IF;

    IF true = ANY (had_labels) THEN
        -- One look into the index for each: the planner must not begin with every label there is.
        DELETE FROM {schema}.latest_label WHERE ctid = ANY (ARRAY(
            SELECT old.place
            FROM generate_series(1, ids) AS slot, LATERAL (
                    SELECT log.rev, log.status, log.body FROM {schema}.log
                    WHERE log.rev = stored[slot] OFFSET 0
                ) AS log, {schema}.labels_of(log.body) AS pair, LATERAL (
                    SELECT latest_label.ctid AS place FROM {schema}.latest_label
                    WHERE latest_label.key = pair.key AND latest_label.value = pair.value
                        AND latest_label.status = log.status AND latest_label.rev = log.rev
                    OFFSET 0
                ) AS old
            WHERE had_labels[slot] AND last_put[slot] IS NOT NULL
        ));
    END IF;
    IF true = ANY (had_delays) THEN
        DELETE FROM {schema}.delay AS old USING generate_series(1, ids) AS slot
            WHERE had_delays[slot] AND last_move[slot] IS NOT NULL
                AND old.state_id = words[commits + slot] AND old.rev <> -1;  -- Timers stay.
        IF has_keeps THEN
            UPDATE {schema}.delay AS old SET rev = current[slot] FROM generate_series(1, ids) AS slot
                WHERE had_delays[slot] AND last_put[slot] IS NOT NULL AND last_move[slot] IS NULL
                    AND old.state_id = words[commits + slot] AND old.rev >= 0;
        END IF;
    END IF;
    INSERT INTO {schema}.log
        SELECT revs[put], words[commits + counts[4 * put]], counts[4 * put + 1],
            words[before_first_put + 3 * put + 1], committed, until[put], words[counts[4 * put - 1]],
            words[before_first_put + 3 * put + 3]::json
        FROM generate_series(1, puts) AS put WHERE revs[put] IS NOT NULL;
    INSERT INTO {schema}.latest (id, rev, status, flow, labelled, delayed, stalls_at, stalls_after)
        SELECT words[commits + slot], current[slot],
            CASE WHEN current[slot] < 0 THEN 'forgotten' ELSE words[before_first_put + 3 * put + 1] END,
            words[before_first_put + 3 * put + 2], put_labels[put],
            last_move[slot] IS NULL AND had_delays[slot],
            CASE WHEN isfinite(stalls_at) THEN least(stalls_at, stalled[slot]) ELSE stalls_at END,
            nullif(counts[4 * put + 2], -1)
        FROM generate_series(1, ids) AS slot, LATERAL (SELECT last_put[slot]) AS last (put), LATERAL (
            SELECT {schema}.stalling(
                coalesce(until[put], moment), counts[4 * put + 2], words[before_first_put + 3 * put + 1]
            )
        ) AS stalling (stalls_at)
        WHERE put IS NOT NULL
        ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, status = excluded.status,
            flow = excluded.flow, labelled = excluded.labelled, delayed = excluded.delayed,
            stalls_at = excluded.stalls_at, stalls_after = excluded.stalls_after,
            beat_at = NULL, note = NULL;
    IF rest IS NULL THEN
        RETURN;
    END IF;
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
    IF rest ?| '{delays,timers}' THEN
        SELECT greatest({schema}.to_micros(moment), max(written) + 1) INTO number FROM {schema}.delay;
    END IF;
    IF rest ? 'delays' THEN
        -- A delay is outdated already if a later commit of the batch has put its state. One that
        -- belongs to no put lets the latest revision stall no earlier than it allows; the others
        -- count already.
        WITH added AS (
            INSERT INTO {schema}.delay (id, state_id, rev, due, body, flow, refs, written)
                SELECT delay ->> 1, words[commits + (delay ->> 3)::integer],
                    CASE WHEN delay ->> 2 IS NULL THEN (delay ->> 4)::bigint
                        ELSE current[(delay ->> 3)::integer] END,
                    {schema}.due_at(delay, moment), (delay ->> 7)::json, delay ->> 8,
                    CASE WHEN delay -> 9 <> '[]' THEN
                        ARRAY(SELECT jsonb_array_elements_text(delay -> 9))
                    END, number
                FROM jsonb_array_elements(rest -> 'delays') AS delay
                WHERE NOT refused[(delay ->> 0)::integer]
                    AND coalesce(
                        counts[4 * CASE WHEN delay ->> 2 IS NULL THEN last_put[(delay ->> 3)::integer]
                            ELSE last_move[(delay ->> 3)::integer] END - 1] <= (delay ->> 0)::integer,
                        true
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
    IF rest ? 'timers' THEN
        INSERT INTO {schema}.delay (id, state_id, rev, due, body, flow, written)
            SELECT DISTINCT ON (timer ->> 1) timer ->> 1,
                words[commits + counts[4 * (timer ->> 2)::integer]], -1,
                {schema}.due_at(timer, moment), (timer ->> 7)::json, timer ->> 8, number
            FROM jsonb_array_elements(rest -> 'timers') WITH ORDINALITY AS given (timer, place)
            WHERE NOT refused[(timer ->> 0)::integer]
            ORDER BY timer ->> 1, place DESC
            ON CONFLICT (id) DO UPDATE SET state_id = excluded.state_id, rev = -1,
                due = excluded.due, body = excluded.body, flow = excluded.flow, refs = NULL,
                written = excluded.written, holder = NULL;
    END IF;
END
$$;
