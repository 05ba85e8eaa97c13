-- States that never stall and have not ended are found by flow: they stall at infinity, in the index
-- of those that stall. Timers are delays of revision -1. A state that is forgotten keeps its row in
-- latest, with the status 'forgotten' and its last revision negated, until that one is compacted.
UPDATE {schema}.meta SET version = 3;

-- As commits do: none of an older program may come between what is written here and the functions.
SELECT pg_advisory_xact_lock(1718382455, '{schema}.log'::regclass::oid::integer);

DROP FUNCTION IF EXISTS
    {schema}.commit, {schema}.due_at,
    {schema}.beat, {schema}.compact_some, {schema}.drop_unreferenced, {schema}.last_before,
    {schema}.lock_commits, {schema}.labels_of,
    {schema}.later, {schema}.from_micros, {schema}.to_micros;

-- No operator of JSON takes a text with the escapes that this looks for.
UPDATE {schema}.latest SET stalls_at = 'infinity', flow = CASE
        WHEN log.body::text ~ E'\\\\u(0000|[dD][89a-fA-F])' THEN latest.flow
        ELSE coalesce(log.body -> 'transition' ->> 'to', '')
    END
    FROM {schema}.log
    WHERE log.rev = latest.rev AND latest.stalls_at IS NULL AND latest.status <> 'ended';
