-- Removes data that nothing refers to and that was stored before a revision.
-- ARGV: the revision, at most how many. Returns how many.
-- What was stored at the head is meant for a commit that is still to come.
local head = tonumber(redis.call('HGET', prefix .. 'meta', 'head') or '0')
local before = '(' .. text(math.min(tonumber(ARGV[1]), head))
local found = redis.call('ZRANGEBYSCORE', prefix .. 'orphans', '-inf', before, 'LIMIT', '0', ARGV[2])
for _, sum in ipairs(found) do
    redis.call('UNLINK', prefix .. 'data:' .. sum)
    redis.call('ZREM', prefix .. 'orphans', sum)
end
return #found
