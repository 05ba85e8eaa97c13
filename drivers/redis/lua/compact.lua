-- Removes outdated revisions above a cursor and below a revision, and moves the floor.
-- ARGV: cursor, below which revision, at most how many.
-- Returns {how many, after which revision to go on}; the latter is missing at the end.
local MAX_BYTES = 4000000
local meta = redis.call('HMGET', key('meta'), 'head', 'floor')
local target = math.min(tonumber(ARGV[2]), tonumber(meta[1] or '0'))
local after, limit = tonumber(ARGV[1]), tonumber(ARGV[3])

-- A few at a time, because they come with all they hold.
local function outdated()
    local found, bytes, seen = {}, 0, 0
    while after + 1 < target and seen < limit and bytes < MAX_BYTES do
        local some = redis.call('XRANGE', key('log'), entry_id(after + 1), entry_id(target - 1),
            'COUNT', '20')
        if #some == 0 then
            after = target - 1
        end
        for _, each in ipairs(some) do
            local entry = fields(each)
            after, seen = entry.rev, seen + 1
            bytes = bytes + #(entry.b or '')
            local latest = latest_of(redis.call('HGET', key('latest'), entry.i or '')).rev
            if latest and latest ~= entry.rev then
                entry.b = nil
                found[#found + 1] = entry
            end
        end
    end
    return found, after + 1 < target
end

local found, more = outdated()
local floor = math.max(more and after + 1 or target, 1)
local function unpacked(packed)
    return packed and packed ~= '' and cmsgpack.unpack(packed) or {}
end

for _, entry in ipairs(found) do
    local rev, labels = text(entry.rev), unpacked(entry.l)
    collect(removals, 'XDEL', 'log', rev .. '-0')
    collect(removals, 'XDEL', 'status:' .. (entry.s or ''), rev .. '-0')
    for place = 1, #labels, 2 do
        collect(removals, 'ZREM', posting('label', entry.s or '', labels[place], labels[place + 1]), rev)
    end
    refer(unpacked(entry.r), -1)
end
if floor > tonumber(meta[2] or '1') then
    -- A script that has begun to write may go on when the memory is full; this one makes room.
    redis.call('HDEL', key('meta'), '')
    redis.call('HSET', key('meta'), 'floor', text(floor))
end
write()
return cmsgpack.pack({#found, more and after})
