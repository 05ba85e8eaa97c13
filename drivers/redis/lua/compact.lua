-- Removes outdated revisions above a cursor and below a revision, and moves the floor.
-- ARGV: cursor, below which revision, at most how many.
-- Returns {how many, after which revision to go on}; the latter is missing at the end.
local meta = redis.call('HMGET', key('meta'), 'head', 'floor')
local target = math.min(tonumber(ARGV[2]), tonumber(meta[1] or '0'))
local after = tonumber(ARGV[1])
local found = {}
if after + 1 < target then
    found = redis.call(
        'XRANGE', key('log'), entry_id(after + 1), entry_id(target - 1), 'COUNT', ARGV[3])
end
local removed = 0
local floor = math.max(target, 1)
if #found > 0 then
    floor = rev_of(found[#found][1]) + 1
end
if floor > tonumber(meta[2] or '1') then
    -- A script that has begun to write may go on when the memory is full; this one makes room.
    redis.call('HDEL', key('meta'), '')
    redis.call('HSET', key('meta'), 'floor', text(floor))
end

local function release(sum)
    local name = key('data:' .. sum)
    if redis.call('HINCRBY', name, 'references', -1) == 0 then
        redis.call('ZADD', key('orphans'), redis.call('HGET', name, 'stored_at'), sum)
    end
end

local function remove(entry)
    local rev = text(entry.rev)
    redis.call('XDEL', key('log'), rev .. '-0')
    redis.call('XDEL', key('status:' .. entry.s), rev .. '-0')
    local labels = entry.l ~= '' and cmsgpack.unpack(entry.l) or {}
    for place = 1, #labels, 2 do
        redis.call('ZREM', key('label:' .. pair(labels[place], labels[place + 1])), rev)
    end
    for _, sum in ipairs(entry.r ~= '' and cmsgpack.unpack(entry.r) or {}) do
        release(sum)
    end
end

for _, each in ipairs(found) do
    local entry = fields(each)
    if latest_of(redis.call('HGET', key('latest'), entry.i)).rev ~= entry.rev then
        remove(entry)
        removed = removed + 1
    end
end
return cmsgpack.pack({removed, #found > 0 and floor - 1})
