-- Notes heartbeats. ARGV[1]: MessagePack of a list of {id, revision, microseconds until it stalls
--   or false, note}, at most 1,000.
-- Returns MessagePack of a list: for each whether the revision is the latest.
local beats, ids = cmsgpack.unpack(ARGV[1]), {}
for place, beat in ipairs(beats) do
    ids[place] = beat[1]
end
local latest = redis.call('HMGET', key('latest'), unpack(ids))
local before = redis.call('HMGET', key('beats'), unpack(ids))
local found = {}

local function move(id, state, micros)
    local due = later(0, micros)
    unindex_due('stall', state.flow, state.due .. id)
    index_due('stall', state.flow, due .. id)
    collect(additions, 'HSET', 'latest', id,
        latest_value(state.rev, state.status, state.labelled, state.after, due, state.flow))
end

for place, beat in ipairs(beats) do
    local id, rev, micros, note = unpack(beat)
    local state = latest_of(latest[place])
    found[place] = latest[place] ~= false and state.rev == rev
    if found[place] then
        local at = now()
        local _, last = beat_of(before[place])
        if at == last then
            at = at + 1  -- A reader can tell that there was another one.
        end
        collect(additions, 'HSET', 'beats', id, text(rev) .. ' ' .. text(at) .. ' ' .. note)
        if micros and state.after then
            move(id, state, micros)
        end
    end
end
check_flows()
if #additions > 0 then
    redis.call('HSET', key('beats'), '', '')  -- Refused when the memory is full.
    redis.call('HDEL', key('beats'), '')
end
write()
return cmsgpack.pack(found)
