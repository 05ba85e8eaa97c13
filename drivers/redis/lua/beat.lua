-- Notes heartbeats. ARGV[1]: MessagePack of a list of {id, revision, microseconds until it stalls
--   or false, note}, at most 1,000.
-- Returns MessagePack of a list: for each whether the revision is the latest.
local beats, ids = cmsgpack.unpack(ARGV[1]), {}
for place, beat in ipairs(beats) do
    ids[place] = beat[1]
end
local latest = redis.call('HMGET', key('latest'), unpack(ids))
local before = redis.call('HMGET', key('beats'), unpack(ids))
redis.call('ZCARD', key('stalls'))  -- What is about to be written to must be what it should be.
local found, values, stalls = {}, {}, {}
for place, beat in ipairs(beats) do
    local id, rev, micros, note = unpack(beat)
    found[place] = latest[place] and latest_of(latest[place]).rev == rev
    if found[place] then
        local at = now()
        local _, last = beat_of(before[place])
        if at == last then
            at = at + 1  -- Whoever looks is to see that there was another one.
        end
        values[#values + 1] = id
        values[#values + 1] = text(rev) .. ' ' .. text(at) .. ' ' .. note
        if micros then
            stalls[#stalls + 1] = score_of(at + micros)
            stalls[#stalls + 1] = id
        end
    end
end
-- From here on it writes; what never stalls has no score, and gets none.
call_with('HSET', 'beats', values)
call_with('ZADD', 'stalls', stalls, 'XX')
return cmsgpack.pack(found)
