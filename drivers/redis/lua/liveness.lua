-- ARGV: id. Returns {revision, score or '', when the last heartbeat came or '', its note, now} of
-- the latest revision of a state, or false.
local value = redis.call('HGET', key('latest'), ARGV[1])
if not value then
    return false
end
local rev = latest_of(value).rev or 0
local of, at, note = beat_of(redis.call('HGET', key('beats'), ARGV[1]))
if of ~= rev then
    at, note = nil, ''
end
return {text(rev), redis.call('ZSCORE', key('stalls'), ARGV[1]) or '', at and text(at) or '', note,
    text(now())}
