-- Moves a delay that is still due at a time. ARGV: id, time, seconds and microseconds from now.
-- Returns the new time, or false.
local value = redis.call('HGET', key('delays'), ARGV[1])
if not value then
    return false
end
local due, state_id, rev, body = unpack(cmsgpack.unpack(value))
if due ~= ARGV[2] then
    return false
end
remove_delay(ARGV[1])
local moved = later(tonumber(ARGV[3]), tonumber(ARGV[4]))
add_delay(ARGV[1], moved, state_id, rev, body)
return moved
