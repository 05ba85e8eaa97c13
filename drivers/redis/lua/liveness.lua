-- ARGV: id. Returns {revision, score or '', when the last heartbeat came or '', its note, now} of
-- the latest revision of a state, and when its earliest delay is due or '', or false.
local value = redis.call('HGET', key('latest'), ARGV[1])
if not value then
    return false
end
local rev = latest_of(value).rev or 0
local of, at, note = beat_of(redis.call('HGET', key('beats'), ARGV[1]))
if of ~= rev then
    at, note = nil, ''
end
local ids = redis.call('HGET', key('delays_of'), ARGV[1])
local due = ''
for _, id in ipairs(ids and cmsgpack.unpack(ids) or {}) do
    local delay = redis.call('HGET', key('delays'), id)
    local readable, found = pcall(cmsgpack.unpack, delay or '')
    local time, _, delayed = unpack(readable and type(found) == 'table' and found or {})
    if delayed == rev and (due == '' or time < due) then
        due = time
    end
end
return {text(rev), redis.call('ZSCORE', key('stalls'), ARGV[1]) or '', at and text(at) or '', note,
    text(now()), due}
