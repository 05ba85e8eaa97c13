-- Brings a store of version 2 to version 3, a part with each call. ARGV: at most how many.
-- Returns how much was done; 0 at the end. Several processes may do it at the same time.
--
-- Version 2 kept nowhere in which flow a state is that never stalls. Its commits fail from the first
-- part on, because they want the field "stamp".
local revision = entry_reading()
local UNKNOWN_FLOW = '\0'
local meta = redis.call('HMGET', prefix .. 'meta', 'version', 'stamp', 'upgraded')
if meta[1] ~= '2' then
    return 0
end
if meta[2] then
    redis.call('HSET', prefix .. 'meta', 'time', meta[2])
    redis.call('HDEL', prefix .. 'meta', 'stamp')
end

local function flow_in(body)
    local whole, state = pcall(cjson.decode, body)
    local transition = whole and type(state) == 'table' and (state.transition or {})
    local flow = type(transition) == 'table' and (transition.to or '')
    return type(flow) == 'string' and flow or UNKNOWN_FLOW
end

local function upgrade_state(id)
    local state = latest_of(redis.call('HGET', prefix .. 'latest', id))
    if state.kind == 'idle' then
        local entry = revision(state.rev)
        set_latest(id, {}, text(state.rev), state.status, state.labelled, false, false,
            flow_in(entry and entry.b or ''))
    end
end

-- How far it has come: a status, and a revision of the states that have it.
local STATUSES = {paused = 'active', active = false}
local status, after = string.match(meta[3] or 'paused 0', '^(%l+) (%d+)$')
local found = redis.call('ZRANGEBYSCORE', prefix .. 'latest_status:' .. status, '(' .. after, '+inf',
    'WITHSCORES', 'LIMIT', '0', ARGV[1])
for place = 1, #found, 2 do
    upgrade_state(found[place])
    after = found[place + 1]
end
write()
if found[1] then
    redis.call('HSET', prefix .. 'meta', 'upgraded', status .. ' ' .. text(tonumber(after)))
elseif STATUSES[status] then
    redis.call('HSET', prefix .. 'meta', 'upgraded', STATUSES[status] .. ' 0')
else
    redis.call('HSET', prefix .. 'meta', 'version', '3')
    redis.call('HDEL', prefix .. 'meta', 'upgraded')
    return 0
end
return #found + 1
