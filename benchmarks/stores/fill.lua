-- Follows the driver's common.lua. Writes some states of a filling as commits would have.
-- ARGV: first number, how many, MessagePack of {groups, due, delay, number_mark, group_mark, kinds},
-- due in seconds since the year 1, each kind {status, body, micros until it stalls or false, whether
-- it is delayed}.
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local groups, first_due, delay_body, number_mark, group_mark, kinds = unpack(cmsgpack.unpack(ARGV[3]))
local stamp = text(now())

-- What many states add to one key, to be written by one call.
local added = {}

local function add(command, name, one, other)
    local list = added[name]
    if not list then
        list = {command = command}
        added[name] = list
    end
    list[#list + 1] = one
    list[#list + 1] = other
end

local packed = {}
for group = 0, groups - 1 do
    packed[group] = cmsgpack.pack({'group', text(group)})
end
local log, history = key('log'), {}
for _, kind in ipairs(kinds) do
    history[kind[1]] = key('status:' .. kind[1])
end

local function fill(number)
    local status, body, after, is_delayed = unpack(kinds[number % #kinds + 1])
    local shown, rev = text(number), text(number + 1)
    local id, token, entry = 's' .. shown, 'fill-' .. shown, rev .. '-0'
    local group = math.floor(number / #kinds) % groups
    local label = pair('group', text(group))
    local due = is_delayed and string.format('%012.0f000000', first_due + number)
    body = string.gsub(string.gsub(body, number_mark, shown), group_mark, text(group))
    redis.call('XADD', log, entry, 'i', id, 'p', '0', 's', status, 'c', stamp,
        'u', due or '', 't', token, 'l', packed[group], 'r', '', 'b', body)
    redis.call('XADD', history[status], entry, '', '')
    add('ZADD', 'label:' .. label, rev, rev)
    add('ZADD', 'latest_label:' .. label, rev, id)
    add('ZADD', 'latest_status:' .. status, rev, id)
    add('HSET', 'latest', id, rev .. ' ' .. status .. ' 1' .. (after and ' ' .. after or ''))
    if after then
        local start = due and micros_of(due) or tonumber(stamp)
        add('ZADD', 'stalls', score_of(start + after), id)
    end
    if due then
        local delay = token .. '.0'
        add('HSET', 'delays', delay, cmsgpack.pack({due, id, number + 1, delay_body}))
        add('ZADD', 'due', '0', due .. delay)
        add('HSET', 'delays_of', id, cmsgpack.pack({delay}))
    end
end

for number = first, first + count - 1 do
    fill(number)
end
for name, list in pairs(added) do
    call_with(list.command, name, list)
end
redis.call('HSET', key('meta'), 'head', text(first + count), 'last', stamp)
redis.call('XADD', key('alarm'), 'MAXLEN', '1', '*', '', '')
