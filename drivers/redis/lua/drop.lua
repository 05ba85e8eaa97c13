-- Removes a delay. ARGV: id.
local value = redis.call('HGET', key('delays'), ARGV[1])
if value then
    local state_id = cmsgpack.unpack(value)[2]
    remove_delay(ARGV[1])
    local ids = redis.call('HGET', key('delays_of'), state_id)
    local left = {}
    for _, id in ipairs(ids and cmsgpack.unpack(ids) or {}) do
        if id ~= ARGV[1] then
            left[#left + 1] = id
        end
    end
    if #left > 0 then
        redis.call('HSET', key('delays_of'), state_id, cmsgpack.pack(left))
    else
        redis.call('HDEL', key('delays_of'), state_id)
    end
end
return false
