-- Removes outdated revisions above a cursor and below a revision, and moves the floor.
-- ARGV: cursor, below which revision, at most how many.
-- Returns MessagePack of {how many, after which revision to go on, or false at the end}.
local _, texts_in, fields = entry_reading()
local MAX_BYTES = 4000000
local meta = redis.call('HMGET', prefix .. 'meta', 'head', 'floor')
local target = math.min(tonumber(ARGV[2]), tonumber(meta[1] or '0'))
local after, limit = tonumber(ARGV[1]), tonumber(ARGV[3])
local removed, bytes, seen = 0, 0, 0

local function remove(entry)
    local rev, status, labels = text(entry.rev), entry.s or '', texts_in(entry.l)
    collect(removals, 'XDEL', 'log', rev .. '-0')
    collect(removals, 'XDEL', 'status:' .. status, rev .. '-0')
    for place = 1, #labels - 1, 2 do
        collect(removals, 'ZREM', posting('label', status, labels[place], labels[place + 1]), rev)
    end
    refer(texts_in(entry.r), -1)
    removed = removed + 1
end

while after + 1 < target and seen < limit and bytes < MAX_BYTES do
    -- A few at a time, because they come with all they hold.
    local some = redis.call('XRANGE', prefix .. 'log', text(after + 1) .. '-0',
        text(target - 1) .. '-0', 'COUNT', '20')
    if #some == 0 then
        after = target - 1
    end
    for _, each in ipairs(some) do
        local entry = fields(each)
        after, seen, bytes = entry.rev, seen + 1, bytes + #(entry.b or '')
        local state = latest_of(redis.call('HGET', prefix .. 'latest', entry.i or ''))
        if state.rev and state.rev ~= entry.rev then
            remove(entry)
        end
        if state.last == entry.rev then
            collect(removals, 'HDEL', 'latest', entry.i)
        end
    end
end

local more = after + 1 < target
local floor = math.max(more and after + 1 or target, 1)
if floor > tonumber(meta[2] or '1') then
    -- A script that has begun to write may go on when the memory is full; this one makes room.
    redis.call('HDEL', prefix .. 'meta', '')
    collect(beginning, 'HSET', 'meta', 'floor', text(floor))
end
write()
return cmsgpack.pack({removed, more and after})
