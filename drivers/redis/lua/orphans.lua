-- Removes data that no revision refers to and that was stored before a revision.
-- ARGV: the revision, at most how many. Returns how many.
local found = redis.call('ZRANGEBYSCORE', key('orphans'), '-inf', '(' .. ARGV[1], 'LIMIT', '0', ARGV[2])
for _, sum in ipairs(found) do
    redis.call('DEL', key('data:' .. sum))
    redis.call('ZREM', key('orphans'), sum)
end
return #found
