-- Notes heartbeats. ARGV[1]: MessagePack of a list of {id, revision, microseconds until it stalls
--   or false, note}, at most 1,000.
-- Returns MessagePack of a list: for each whether the revision is the latest.
local LAST_EXACT = 2 ^ 53 - 1
local beats, ids = cmsgpack.unpack(ARGV[1]), {}
for place, beat in ipairs(beats) do
    ids[place] = beat[1]
end
local latest = redis.call('HMGET', prefix .. 'latest', unpack(ids))
local before = redis.call('HMGET', prefix .. 'beats', unpack(ids))
local found = {}

for place, beat in ipairs(beats) do
    local id, rev, micros, note = unpack(beat)
    local state = latest_of(latest[place])
    found[place] = rev > 0 and state.rev == rev
    if found[place] then
        local last = tonumber(string.match(before[place] or '', '^%d+ (%d+) ') or '')
        -- The time always rises, so that a heartbeat can be told from those before it.
        local at = last and last >= now() and last < LAST_EXACT and last + 1 or now()
        -- It comes first, because it is refused when the memory is full.
        collect(beginning, 'HSET', 'beats', id, text(rev) .. ' ' .. text(at) .. ' ' .. note)
        if micros and state.kind == 'stall' then
            set_latest(id, state, text(rev), state.status, state.labelled, state.after,
                later(0, micros), state.flow)
        end
    end
end
write()
return cmsgpack.pack(found)
