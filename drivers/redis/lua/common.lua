-- Put in front of every script. KEYS[1] is the prefix of all keys of a namespace, with its hash tag.
local prefix = KEYS[1] .. ':'

local function key(name)
    return prefix .. name
end

-- Give up; the driver knows the first word.
local function corrupt(reason)
    error('CORRUPT the store ' .. reason, 0)
end

-- A pair of texts as one, so that no other pair gives the same.
local function pair(first, second)
    return #first .. ':' .. first .. second
end

-- The postings of a label, apart for each status.
local function posting(kind, status, label, value)
    return kind .. ':' .. status .. ':' .. #label .. ':' .. label .. value
end

-- Revisions and times are whole numbers below 2^53, which a double holds exactly; tostring would
-- round them.
local function text(number)
    return string.format('%.0f', number)
end

-- Microseconds since 1970: one time for the whole script; before Redis 7 the clock goes on in it.
local time

local function now()
    if not time then
        local found = redis.call('TIME')
        time = found[1] * 1000000 + found[2]
    end
    return time
end

-- Seconds and microseconds after a time, or after now. What is due has texts of 18 digits as times,
-- microseconds since the year 1: a double cannot hold every microsecond until the year 9999. They
-- sort as texts.
local function later(seconds, micros, due)
    if due then
        seconds = seconds + string.sub(due, 1, 12)
        micros = micros + string.sub(due, 13)
    else
        seconds, micros = seconds + 62135596800, micros + now()
    end
    seconds = seconds + math.floor(micros / 1000000)
    if seconds >= 315537897600 then
        return '315537897599999999'
    end
    return string.format('%012.0f%06.0f', seconds, micros % 1000000)
end

local function is_time(due)
    return type(due) == 'string' and #due == 18 and not string.find(due, '%D')
end

-- An entry of a stream as a table.
local function fields(entry)
    local found, list = {rev = tonumber(string.sub(entry[1], 1, -3))}, entry[2]
    for place = 1, #list, 2 do
        found[list[place]] = list[place + 1]
    end
    return found
end

-- The texts of a packed field of an entry; none if it is damaged.
local function texts_in(packed)
    local whole, found = pcall(cmsgpack.unpack, packed or '')
    if not whole or type(found) ~= 'table' then
        return {}
    end
    for _, each in ipairs(found) do
        if type(each) ~= 'string' then
            return {}
        end
    end
    return found
end

local function revision(rev)
    local id = text(rev) .. '-0'
    local found = redis.call('XRANGE', prefix .. 'log', id, id)[1]
    return found and fields(found)
end

-- The latest revision of a state: number, status, and whether it has labels; of one that may stall
-- also after how many microseconds, as digits, when, and in which flow.
local function latest_of(value)
    if not value then
        return {rev = 0}
    end
    local rev, status, labelled, after, due, flow =
        string.match(value, '^(%d+) (%l+) (%d) ?(%d*) ?(%d*) ?(.*)$')
    return {rev = tonumber(rev), status = status, labelled = labelled == '1',
        after = is_time(due) and after, due = due, flow = flow}
end

-- A delay without its body; false when there is none, nil when it is damaged.
local function delay_of(id)
    local value = redis.call('HGET', prefix .. 'delay_heads', id)
    if not value then
        return false
    end
    local whole, head = pcall(cmsgpack.unpack, value)
    if not whole or type(head) ~= 'table' or not is_time(head[1]) or type(head[2]) ~= 'string'
        or type(head[3]) ~= 'number' or head[3] % 1 ~= 0 or head[3] < 0 or head[3] >= 2 ^ 53
        or type(head[4]) ~= 'string' or type(head[5]) ~= 'string' or type(head[6]) ~= 'table' then
        return nil
    end
    return {id = id, due = head[1], state = head[2], rev = head[3], flow = head[4],
        holder = head[5], references = head[6]}
end

-- Delays of a state, in the order of time.
local function delays_of(state, first, last)
    local found = redis.call('ZRANGE', prefix .. 'delays_of:' .. state, first, last)
    for place, member in ipairs(found) do
        local size, start = string.match(member, '^(%d+):()', 19)
        local after = start and start + size or 19
        found[place] = {due = string.sub(member, 1, 18),
            flow = string.sub(member, start or 19, after - 1), id = string.sub(member, after)}
    end
    return found
end
