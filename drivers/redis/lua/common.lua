-- Put before every script. KEYS[1] is the prefix of all keys of a namespace, with its hash tag.
local function key(name)
    return KEYS[1] .. ':' .. name
end

-- Give up; the driver knows the first word.
local function corrupt(reason)
    error('CORRUPT the store ' .. reason, 0)
end

-- A pair of texts as one, so that no other pair gives the same.
local function pair(first, second)
    return #first .. ':' .. first .. second
end

-- Revisions and times are whole numbers below 2^53, which a double holds exactly; tostring would
-- round them.
local function text(number)
    return string.format('%.0f', number)
end

local function entry_id(rev)
    return text(rev) .. '-0'
end

local function rev_of(entry)
    return tonumber(string.sub(entry, 1, -3))
end

-- One time for the whole script, seconds and microseconds: before Redis 7 the clock goes on in it.
local time

local function clock()
    time = time or redis.call('TIME')
    return tonumber(time[1]), tonumber(time[2])
end

-- Microseconds since 1970.
local function now()
    local seconds, micros = clock()
    return seconds * 1000000 + micros
end

-- An entry of the log as a table.
local function fields(entry)
    local found = {}
    for place = 1, #entry[2], 2 do
        found[entry[2][place]] = entry[2][place + 1]
    end
    found.rev = rev_of(entry[1])
    return found
end

local function revision(rev)
    local found = redis.call('XRANGE', key('log'), entry_id(rev), entry_id(rev))[1]
    return found and fields(found)
end

-- What a driver makes a state from.
local function stored(entry)
    return {entry.rev, tonumber(entry.c), entry.u ~= '' and entry.u, entry.b}
end

-- Of the latest revision of a state: its number and status, whether it has labels, and after how
-- many microseconds it stalls, if ever.
local function latest_of(value)
    if not value then
        return {rev = 0}
    end
    local rev, status, labelled, after = string.match(value, '^(%d+) (%l+) (%d) ?(%d*)$')
    return {rev = tonumber(rev), status = status, labelled = labelled == '1',
        after = tonumber(after)}
end

-- The last heartbeat for a state: its revision, when it came, and the note.
local function beat_of(value)
    local rev, at, note = string.match(value or '', '^(%d+) (%d+) (.*)$')
    return tonumber(rev), tonumber(at), note
end

-- Scores of the sorted set "stalls" are microseconds since 1970. A double cannot hold each of them
-- after the year 2255; then they are rounded, by less than 32. This is the last one before the
-- year 10000.
local LAST_SCORE = 253402300799999968

local function score_of(micros)
    return text(math.min(micros, LAST_SCORE))
end

-- A command with any number of arguments, in few calls: a call costs more than what it does. Their
-- number is even; Lua cannot take more than some thousands.
local function call_with(command, name, arguments, option)
    for first = 1, #arguments, 1000 do
        local last = math.min(first + 999, #arguments)
        if option then
            redis.call(command, key(name), option, unpack(arguments, first, last))
        else
            redis.call(command, key(name), unpack(arguments, first, last))
        end
    end
end

-- Times of delays are texts of 18 digits, microseconds since the year 1: a double cannot hold
-- every microsecond until the year 9999, and so they sort as texts.
local LAST = '315537897599999999'

local function later(seconds, micros)
    local now_seconds, now_micros = clock()
    micros = now_micros + micros
    seconds = now_seconds + 62135596800 + seconds + math.floor(micros / 1000000)
    if seconds >= 315537897600 then
        return LAST
    end
    return string.format('%012.0f%06.0f', seconds, micros % 1000000)
end

-- The same time in microseconds since 1970.
local function micros_of(digits)
    local seconds, micros = tonumber(string.sub(digits, 1, 12)), tonumber(string.sub(digits, 13))
    return (seconds - 62135596800) * 1000000 + micros
end

-- Members of the sorted set "due" are the time and the id, all of score 0: in the order of bytes.
local function add_delay(id, due, state_id, rev, body)
    redis.call('HSET', key('delays'), id, cmsgpack.pack({due, state_id, rev, body}))
    redis.call('ZADD', key('due'), '0', due .. id)
end

local function remove_delay(id)
    local value = redis.call('HGET', key('delays'), id)
    if value then
        redis.call('HDEL', key('delays'), id)
        redis.call('ZREM', key('due'), cmsgpack.unpack(value)[1] .. id)
    end
    return value
end
