-- Follows those scripts of the driver that come before commit.lua. Writes some states of a filling
-- as commits would have.
-- ARGV: first number, how many, MessagePack of {groups, due, delay, number_mark, group_mark, kinds,
-- flow of the delays}, due in seconds since the year 1, each kind {status, body, micros until it
-- stalls or false, whether it is delayed, flow}.
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local groups, first_due, delay_body, number_mark, group_mark, kinds, finish =
    unpack(cmsgpack.unpack(ARGV[3]))
local stamp, delays = text(now()), delay_changes({})

local packed = {}
for group = 0, groups - 1 do
    packed[group] = cmsgpack.pack({'group', text(group)})
end

local function fill(number)
    local status, body, after, is_delayed, flow = unpack(kinds[number % #kinds + 1])
    local shown, rev = text(number), text(number + 1)
    local id, token, entry = 's' .. shown, 'fill-' .. shown, rev .. '-0'
    local group = math.floor(number / #kinds) % groups
    local due = is_delayed and string.format('%012.0f000000', first_due + number)
    body = string.gsub(string.gsub(body, number_mark, shown), group_mark, text(group))
    redis.call('XADD', prefix .. 'log', entry, 'i', id, 'p', '0', 's', status, 'c', stamp,
        'u', due or '', 't', token, 'l', packed[group], 'r', '', 'b', body)
    redis.call('XADD', prefix .. 'status:' .. status, entry, '', '')
    collect(additions, 'ZADD', posting('label', status, 'group', text(group)), rev, rev)
    collect(additions, 'ZADD', posting('latest_label', status, 'group', text(group)), rev, id)
    collect(additions, 'ZADD', 'latest_status:' .. status, rev, id)
    local stalls = after and later(0, tonumber(after), due or nil)
    set_latest(id, {}, rev, status, true, after, stalls, flow)
    if due then
        delays.add({id = token .. '.0', due = due, state = id, rev = number + 1, flow = finish,
            holder = '', references = {}, body = delay_body})
    end
end

for number = first, first + count - 1 do
    fill(number)
end
collect(beginning, 'HSET', 'meta', 'head', text(first + count))
collect(beginning, 'HSET', 'meta', 'time', stamp)
delays.finish()
write()
redis.call('XADD', prefix .. 'alarm', 'MAXLEN', '1', '*', '', '')
