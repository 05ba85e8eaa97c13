-- Functions that read delays, and timers, which are among them.
local function delay_reading()
    local function is_time(due)
        return type(due) == 'string' and #due == #NO_TIME and not string.find(due, '%D')
    end

    -- A delay without its body, or a timer, whose revision is -1; false when there is none, nil when
    -- it is damaged.
    local function delay_of(id)
        local value = redis.call('HGET', prefix .. 'delay_heads', id)
        if not value then
            return false
        end
        local whole, head = pcall(cmsgpack.unpack, value)
        if not whole or type(head) ~= 'table' or not is_time(head[1]) or type(head[2]) ~= 'string'
            or type(head[3]) ~= 'number' or head[3] % 1 ~= 0 or head[3] < -1 or head[3] >= 2 ^ 53
            or type(head[4]) ~= 'string' or type(head[5]) ~= 'string' or type(head[6]) ~= 'table'
        then
            return nil
        end
        return {id = id, due = head[1], state = head[2], rev = head[3], flow = head[4],
            holder = head[5], references = head[6]}
    end

    -- What a member of the delays of a state, or of its timers, tells.
    local function place_of(member)
        local size, start = string.match(member, '^(%d+):()', 19)
        local after = start and start + size or 19
        return {due = string.sub(member, 1, 18), flow = string.sub(member, start or 19, after - 1),
            id = string.sub(member, after)}
    end

    return delay_of, place_of, is_time
end
