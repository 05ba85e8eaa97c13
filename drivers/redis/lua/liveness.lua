-- ARGV: ids. Returns MessagePack of a list: for each {revision, when it stalls or '', when the last
-- heartbeat came or '', its note, now, when its earliest delay that can be read is due or ''} of
-- the latest revision of the state, or false.
local delay_of, place_of = delay_reading()

-- The last heartbeat for a state: its revision, when it came, and the note.
local function beat_of(value)
    local rev, at, note = string.match(value or '', '^(%d+) (%d+) (.*)$')
    return tonumber(rev), tonumber(at), note
end

local function is_readable(delay)
    local body = redis.call('HGET', prefix .. 'delay_bodies', delay.id)
    local whole, found = pcall(cjson.decode, body or '')
    if not whole or type(found) ~= 'table' or found.v ~= 1 or type(found.to) ~= 'string' then
        return false
    end
    local state = found.state
    return state == nil or state == cjson.null
        or type(state) == 'table' and state.v == 1 and state.id == delay.state
end

local function earliest(id, rev)
    local seen, members = 0, {}
    repeat
        members = redis.call(
            'ZRANGE', prefix .. 'delays_of:' .. id, text(seen), text(seen + 9))
        for _, member in ipairs(members) do
            local delay = delay_of(place_of(member).id)
            if delay and delay.rev == rev and is_readable(delay) then
                return delay.due
            end
        end
        seen = seen + 10
    until #members == 0
    return ''
end

local function liveness_of(id)
    local state = latest_of(redis.call('HGET', prefix .. 'latest', id))
    if state.rev == 0 then
        return false
    end
    local rev = state.rev or 0
    local of, at, note = beat_of(redis.call('HGET', prefix .. 'beats', id))
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
