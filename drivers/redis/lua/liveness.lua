-- ARGV: ids. Returns MessagePack of a list: for each {revision, when it stalls or '', when the last
-- heartbeat came or '', its note, now, when its earliest delay that can be read is due or ''} of
-- the latest revision of the state, or false.
local function is_readable(delay)
    local body = redis.call('HGET', key('delay_bodies'), delay.id)
    local whole, found = pcall(cjson.decode, body or '')
    if not whole or type(found) ~= 'table' or found.v ~= 1 or type(found.to) ~= 'string' then
        return false
    end
    local state = found.state
    return state == nil or state == cjson.null
        or type(state) == 'table' and state.v == 1 and state.id == delay.state
end

local function earliest(id, rev)
    local seen, members = 0, delays_of(id, '0', '9')
    while #members > 0 do
        for _, member in ipairs(members) do
            local delay = delay_of(member.id)
            if delay and delay.rev == rev and is_readable(delay) then
                return delay.due
            end
        end
        seen = seen + 10
        members = delays_of(id, text(seen), text(seen + 9))
    end
    return ''
end

local function liveness_of(id)
    local value = redis.call('HGET', key('latest'), id)
    if not value then
        return false
    end
    local state = latest_of(value)
    local rev = state.rev or 0
    local of, at, note = beat_of(redis.call('HGET', key('beats'), id))
    if of ~= rev then
        at, note = nil, ''
    end
    return {rev, state.after and state.due or '', at and text(at) or '', note, text(now()),
        earliest(id, rev)}
end

local found = {}
for place, id in ipairs(ARGV) do
    found[place] = liveness_of(id)
end
return cmsgpack.pack(found)
