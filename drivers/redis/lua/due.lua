-- A page of what is due. ARGV[1]: MessagePack of {kind, flows or false, last time or '' for now,
--   limit, whether to name other flows}; ARGV[2]: time and id to go on after, or ''.
-- Returns MessagePack of {now, whether there is more, when the next one is due or false, rows,
--   rows without a time, other flows}, a row {id, due, state id, revision, body, and five of the
--   stored revision}.
local kind, flows, last, limit, others = unpack(cmsgpack.unpack(ARGV[1]))
local after = ARGV[2]
local delay_of, _, is_time = delay_reading()
local MAX_OTHERS, MAX_DAMAGED, MAX_BYTES = 100, 100, 16 * 1024 * 1024
local at = later(0, 0)
last = last == '' and at or last
local all = (others or not flows) and redis.call('ZRANGE', prefix .. 'flows:' .. kind, '0', '-1')
local known = flows or all

-- Members of one flow: the text of a time, and an id.
local function members(flow, low, high, count)
    return redis.call('ZRANGEBYLEX', prefix .. 'due:' .. kind .. ':' .. flow, low, high,
        'LIMIT', '0', text(count))
end

-- Those that begin with a time; damaged ones are passed over.
local function placed(flow, low, high, count)
    local found, some = {}, {}
    repeat
        some = members(flow, low, high, count)
        for _, member in ipairs(some) do
            if #found < count and is_time(string.sub(member, 1, 18)) then
                found[#found + 1] = member
            end
            low = '(' .. member
        end
    until #found == count or #some < count
    return found
end

-- Whether a text comes before another in the order of bytes; < would go by the server's locale.
local function is_before(one, other)
    for place = 1, math.min(#one, #other) do
        local left, right = string.byte(one, place), string.byte(other, place)
        if left ~= right then
            return left < right
        end
    end
    return #one < #other
end

-- The first ones of all flows. Those of later flows count only up to the last one that is taken.
local function first_ones(count)
    -- '9' is above all times, and below what is none.
    local firsts, flow_of, found, low, high = {}, {}, {}, after == '' and '[0' or '(' .. after, '(:'
    for _, flow in ipairs(known) do
        for _, first in ipairs(placed(flow, low, high, 1)) do
            firsts[#firsts + 1] = {first, flow}
        end
    end
    table.sort(firsts, function(one, other) return is_before(one[1], other[1]) end)
    for _, first in ipairs(firsts) do
        if found[count] and is_before(found[count], first[1]) then
            break
        end
        for _, member in ipairs(placed(first[2], low, high, count)) do
            found[#found + 1] = member
        end
        if #firsts > 1 then
            table.sort(found, is_before)
        end
        for place = #found, count + 1, -1 do
            found[place] = nil
        end
        high = found[count] and '[' .. found[count] or high
    end
    return found
end

local function delay_row(id, due)
    local delay = delay_of(id) or {}
    local body = redis.call('HGET', prefix .. 'delay_bodies', id) or ''
    -- Quotes in a text are escaped, so this is a field.
    local is_own = string.find(body, '"state":{', 1, true)
    local entry = {}
    if delay.rev == -1 then
        local rev = latest_of(redis.call('HGET', prefix .. 'latest', delay.state)).rev
        entry = rev == 0 and entry or stored(rev, delay.state)
    elseif not is_own and delay.rev and delay.rev > 0 then
        entry = stored(delay.rev)
    end
    return {id, due, delay.state or '', delay.rev or false, body, unpack(entry)}
end

local function state_row(id, due)
    local rev = latest_of(redis.call('HGET', prefix .. 'latest', id)).rev
    return {id, due, id, rev or false, '', unpack(stored(rev, id))}
end

-- Members that do not begin with a time have no place in the order.
local function timeless()
    local found = {}
    for _, flow in ipairs(known) do
        for _, range in ipairs({{'-', '(0'}, {'[:', '+'}}) do
            for _, member in ipairs(members(flow, range[1], range[2], MAX_DAMAGED)) do
                found[#found + 1] = {member, '', '', false, ''}
            end
        end
    end
    return found
end

local function other_flows()
    local skipped, found = {}, {}
    for _, flow in ipairs(known) do
        skipped[flow] = true
    end
    for _, flow in ipairs(all) do
        local first = not skipped[flow] and #found < MAX_OTHERS and members(flow, '-', '+', 1)[1]
        if first and string.sub(first, 1, 18) <= last then
            found[#found + 1] = flow
        end
    end
    return found
end

local found, rows, bytes = first_ones(limit + 1), {}, 0
local row_of = kind == 'delay' and delay_row or state_row
for place = 1, math.min(#found, limit) do
    local due = string.sub(found[place], 1, 18)
    if due > last or bytes >= MAX_BYTES then
        break
    end
    local row = row_of(string.sub(found[place], 19), due)
    rows[place], bytes = row, bytes + #row[5] + #(row[10] or '')
end
local following = found[#rows + 1] and string.sub(found[#rows + 1], 1, 18)
return cmsgpack.pack({at, following and following <= last or false, following or false, rows,
    after == '' and timeless() or {}, others and flows and other_flows() or {}})
