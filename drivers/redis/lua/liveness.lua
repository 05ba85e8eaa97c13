-- ARGV: ids. Returns for each {revision, score or '', when the last heartbeat came or '', its note,
-- now} of the latest revision of the state, and when its earliest delay is due or '', or false.
local function liveness_of(id)
    local value = redis.call('HGET', key('latest'), id)
    if not value then
        return false
    end
    local rev = latest_of(value).rev or 0
    local of, at, note = beat_of(redis.call('HGET', key('beats'), id))
    if of ~= rev then
        at, note = nil, ''
    end
    local ids = redis.call('HGET', key('delays_of'), id)
    local due = ''
    for _, delay_id in ipairs(ids and cmsgpack.unpack(ids) or {}) do
        local delay = redis.call('HGET', key('delays'), delay_id)
        local readable, found = pcall(cmsgpack.unpack, delay or '')
        local time, _, delayed = unpack(readable and type(found) == 'table' and found or {})
        if delayed == rev and (due == '' or time < due) then
            due = time
        end
    end
    return {text(rev), redis.call('ZSCORE', key('stalls'), id) or '', at and text(at) or '', note,
        text(now()), due}
end
local found = {}
for place, id in ipairs(ARGV) do
    found[place] = liveness_of(id)
end
return found
