-- Put in front of every script. KEYS[1] is the prefix of all keys of a namespace, with its hash tag.
--
-- A script makes its functions again with each run, and each costs a tenth of a small command. So
-- what only some scripts or some commits need is in files of its own, made by one function.
local prefix = KEYS[1] .. ':'

-- Give up; the driver knows the first word.
local function corrupt(reason)
    error('CORRUPT the store ' .. reason, 0)
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

-- The time of what has none.
local NO_TIME = '000000000000000000'

-- The latest revision of a state: number, status, and whether it has labels; of one that has not
-- ended also its place in the index of what is due: kind, time and flow, and if it stalls, after how
-- many microseconds, as digits. One that was forgotten has a last revision, and no latest one. The
-- number is nil when it is damaged.
local function latest_of(value)
    if not value then
        return {rev = 0}
    end
    local rev, status, labelled, after, due, flow =
        string.match(value, '^(%d+) (%l+) (%d) ?(%d*) ?(%d*) ?(.*)$')
    if not rev then
        local last = tonumber(string.match(value, '^forgotten (%d+)$') or '')
        return {rev = last and 0, last = last}
    end
    local stalls = #due == #NO_TIME
    return {rev = tonumber(rev), status = status, labelled = labelled == '1',
        kind = stalls and 'stall' or status ~= 'ended' and 'idle', after = stalls and after,
        due = stalls and due or NO_TIME, flow = flow}
end
