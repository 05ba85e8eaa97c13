-- A latest revision that never stalls and has not ended is due at the first moment that there is, so
-- that the index of what stalls leads to it, too. What has ended, or is forgotten, is never due.
-- The column has a new name so that the edition before, should it still run, cannot put states here
-- any more: it would drop their timers, and leave those that never stall where they are not found.
DROP INDEX latest_due;
ALTER TABLE latest RENAME COLUMN stalls_at TO due;
-- A flow that cannot be read is no text: an empty one is that of a state that was never sent to one.
UPDATE latest SET due = -62135596800000000, flow = coalesce((
    SELECT CASE WHEN typeof(body) = 'text' AND json_valid(body) THEN
        CASE coalesce(json_type(body, '$.transition.to'), 'none')
            WHEN 'none' THEN '' WHEN 'text' THEN json_extract(body, '$.transition.to') END
    END FROM log WHERE log.rev = latest.rev
), x'') WHERE due IS NULL AND status <> 'ended';
CREATE INDEX latest_due ON latest (flow, due, id) WHERE due IS NOT NULL;
