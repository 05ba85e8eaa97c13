-- A page of what is due. ARGV[1]: MessagePack of {kind, flows or false, last time or '' for now,
--   limit, whether to name other flows}; ARGV[2]: time and id to go on after, or ''.
-- Returns MessagePack of {now, whether there is more, when the next one is due or false, rows,
--   rows without a time, other flows}, a row {id, due, state id, revision, body, and five of the
--   stored revision}.
local kind, flows, last, limit, others = unpack(cmsgpack.unpack(ARGV[1]))
local after = ARGV[2]
local MAX_OTHERS, MAX_DAMAGED = 100, 100
local at = later(0, 0)
last = last == '' and at or last
local known = flows or redis.call('ZRANGE', key('flows:' .. kind), '0', '-1')

local function set_of(flow)
    return key('due:' .. kind .. ':' .. flow)
end

-- Whether a text comes behind another in the order of bytes; < would go by the server's locale.
local function is_behind(one, other)
    for place = 1, math.min(#one, #other) do
        local left, right = string.byte(one, place), string.byte(other, place)
        if left ~= right then
            return left > right
        end
    end
    return #one > #other
end

local function is_earlier(one, other)
    if one.due ~= other.due then
        return one.due < other.due
    end
    return is_behind(other.id, one.id)
end

-- Members of one flow, in order; '9' is above all times, and below what is none.
local function members(flow, high, count)
    local low = after == '' and '[0' or '(' .. after
    local range = redis.call(
        'ZRANGEBYLEX', set_of(flow), low, high, 'LIMIT', '0', text(count))
    local found = {}
    for _, member in ipairs(range) do
        local due = string.sub(member, 1, 18)
        if is_time(due) then
            found[#found + 1] = {due = due, id = string.sub(member, 19), flow = flow}
        end
    end
    return found
end

-- The first ones of all flows. Those of later flows count only up to the last one that is taken.
local function first_ones(count)
    local heads, found, high = {}, {}, '(:'
    for _, flow in ipairs(known) do
        heads[#heads + 1] = members(flow, high, 1)[1]
    end
    table.sort(heads, is_earlier)
    for _, head in ipairs(heads) do
        if found[count] and is_earlier(found[count], head) then
            break
        end
        for _, each in ipairs(members(head.flow, high, count)) do
            found[#found + 1] = each
        end
        if #heads > 1 then
            table.sort(found, is_earlier)
        end
        for place = #found, count + 1, -1 do
            found[place] = nil
        end
        if found[count] then
            high = '[' .. found[count].due .. found[count].id
        end
    end
    return found
end

local function delay_row(id, due)
    local delay = delay_of(id) or {references = {}}
    local body = redis.call('HGET', key('delay_bodies'), id) or ''
    -- Quotes in a text are escaped, so this is a field.
    local is_own = string.find(body, '"state":{', 1, true)
    local entry = not is_own and delay.rev and delay.rev > 0 and stored(delay.rev) or {}
    return {id, due, delay.state or '', delay.rev or false, body, unpack(entry)}
end

local function stall_row(id, due)
    local rev = latest_of(redis.call('HGET', key('latest'), id)).rev
    return {id, due, id, rev or false, '', unpack(stored(rev, id))}
end

local row_of = kind == 'delay' and delay_row or stall_row

-- Members that do not begin with a time have no place in the order.
local function timeless()
    local found = {}
    for _, flow in ipairs(known) do
        for _, range in ipairs({{'-', '(0'}, {'[:', '+'}}) do
            local some = redis.call('ZRANGEBYLEX', set_of(flow), range[1], range[2],
                'LIMIT', '0', text(MAX_DAMAGED))
            for _, member in ipairs(some) do
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
    for _, flow in ipairs(redis.call('ZRANGE', key('flows:' .. kind), '0', '-1')) do
        local first = not skipped[flow] and redis.call('ZRANGE', set_of(flow), '0', '0')[1]
        if first and string.sub(first, 1, 18) <= last then
            found[#found + 1] = flow
            if #found == MAX_OTHERS then
                break
            end
        end
    end
    return found
end

local found, rows = first_ones(limit + 1), {}
for place = 1, math.min(#found, limit) do
    if found[place].due > last then
        break
    end
    rows[place] = row_of(found[place].id, found[place].due)
end
local following = found[#rows + 1]
return cmsgpack.pack({at, following and following.due <= last or false,
    following and following.due or false, rows, after == '' and timeless() or {},
    others and flows and other_flows() or {}})
