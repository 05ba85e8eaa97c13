-- Put in front of every script. KEYS[1] is the prefix of all keys of a namespace, with its hash tag.
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

-- The postings of a label, apart for each status.
local function posting(kind, status, label, value)
    return kind .. ':' .. status .. ':' .. pair(label, value)
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

-- What is due has texts of 18 digits as times, microseconds since the year 1: a double cannot hold
-- every microsecond until the year 9999. They sort as texts.
local LAST = '315537897599999999'
local EPOCH = 62135596800

local function digits(seconds, micros)
    seconds = seconds + math.floor(micros / 1000000)
    if seconds >= 315537897600 then
        return LAST
    end
    return string.format('%012.0f%06.0f', seconds, micros % 1000000)
end

local function later(seconds, micros)
    local now_seconds, now_micros = clock()
    return digits(now_seconds + EPOCH + seconds, now_micros + micros)
end

-- A time and microseconds after it.
local function plus(due, micros)
    return digits(tonumber(string.sub(due, 1, 12)), tonumber(string.sub(due, 13)) + micros)
end

local function is_time(due)
    return type(due) == 'string' and #due == 18 and not string.find(due, '%D')
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

-- What a driver makes a state from: revision, id, when it was committed, until when it is delayed,
-- body. Only the revision, and what else is known of it, when it is not stored.
local function stored(rev, id)
    local entry = rev and revision(rev)
    if not entry then
        return {rev or false, id or ''}
    end
    return {rev, entry.i or '', entry.c or '', entry.u or '', entry.b or ''}
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

local function latest_value(rev, status, labelled, after, due, flow)
    local value = text(rev) .. ' ' .. status .. ' ' .. (labelled and '1' or '0')
    return after and value .. ' ' .. after .. ' ' .. due .. ' ' .. flow or value
end

-- The last heartbeat for a state: its revision, when it came, and the note.
local function beat_of(value)
    local rev, at, note = string.match(value or '', '^(%d+) (%d+) (.*)$')
    return tonumber(rev), tonumber(at), note
end

-- A delay without its body; false when there is none, nil when it is damaged.
local function delay_of(id)
    local value = redis.call('HGET', key('delay_heads'), id)
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

local function delay_head(delay)
    return cmsgpack.pack(
        {delay.due, delay.state, delay.rev, delay.flow, delay.holder, delay.references})
end

-- What a script will write. All of it is collected first, and each key is looked at: nothing is
-- undone when a script fails, so what is written must be sure to succeed.
local removals, additions, sizes = {}, {}, {}
local lists = {ZADD = {}, ZREM = {}, HSET = {}, HDEL = {}, XDEL = {}}
local SIZE = {Z = 'ZCARD', H = 'HLEN', X = 'XLEN'}

-- How many members a key has. Fails when it is of another type.
local function size_of(command, name)
    if not sizes[name] then
        sizes[name] = redis.call(SIZE[string.sub(command, 1, 1)], key(name))
    end
    return sizes[name]
end

-- Add to what one command will do: in few calls, because a call costs more than what it does.
local function collect(where, command, name, one, other)
    local list = lists[command][name]
    if not list then
        size_of(command, name)
        list = {command = command, name = name}
        lists[command][name] = list
        where[#where + 1] = list
    end
    list[#list + 1] = one
    list[#list + 1] = other
end

-- Lua cannot give a command more than some thousands of arguments.
local function call_in_parts(list)
    local changed = 0
    for first = 1, #list, 1000 do
        local last = math.min(first + 999, #list)
        changed = changed + redis.call(list.command, key(list.name), unpack(list, first, last))
    end
    return changed
end

-- What is due: sorted sets of time and id for each flow, all of score 0: in the order of bytes.
local touched = {}

local function touch(kind, flow)
    local name = 'due:' .. kind .. ':' .. flow
    touched[name] = touched[name] or {kind, flow, 0}
    return name
end

local function index_due(kind, flow, member)
    collect(additions, 'ZADD', touch(kind, flow), '0', member)
end

local function unindex_due(kind, flow, member)
    collect(removals, 'ZREM', touch(kind, flow), member)
end

-- Whether a flow is the first or the last one to have something due is known afterwards.
local function check_flows()
    for name, about in pairs(touched) do
        local gone = lists.ZREM[name]
        if sizes[name] <= (gone and #gone or 0) then
            size_of('Z', 'flows:' .. about[1])
        end
    end
end

-- Of each state, its delays in the order of time.
local function add_delay(delay)
    collect(additions, 'HSET', 'delay_heads', delay.id, delay_head(delay))
    collect(additions, 'ZADD', 'delays_of:' .. delay.state, '0',
        delay.due .. pair(delay.flow, delay.id))
    index_due('delay', delay.flow, delay.due .. delay.id)
end

local function members_of_state(state, first, last)
    local found = redis.call('ZRANGE', key('delays_of:' .. state), first or '0', last or '-1')
    for place, member in ipairs(found) do
        local size, start = string.match(member, '^(%d+):()', 19)
        local after = start and start + tonumber(size) or 19
        found[place] = {due = string.sub(member, 1, 18),
            flow = string.sub(member, start or 19, after - 1), id = string.sub(member, after)}
    end
    return found
end

-- By how much the number of references to data will change.
local references = {}

local function refer(sums, by)
    for _, sum in ipairs(sums) do
        if type(sum) == 'string' then
            size_of('H', 'data:' .. sum)
            size_of('Z', 'orphans')
            references[sum] = (references[sum] or 0) + by
        end
    end
end

local function count_references()
    for sum, by in pairs(references) do
        local name = key('data:' .. sum)
        if redis.call('HINCRBY', name, 'references', text(by)) > 0 then
            redis.call('ZREM', key('orphans'), sum)
        else
            redis.call('ZADD', key('orphans'), redis.call('HGET', name, 'stored_at') or '0', sum)
        end
    end
end

-- Write what was collected. Removals come first, so that what is moved to its own place stays.
local function write()
    for _, where in ipairs({removals, additions}) do
        for _, list in ipairs(where) do
            local changed = call_in_parts(list)
            if touched[list.name] then
                local by = list.command == 'ZREM' and -changed or changed
                touched[list.name][3] = touched[list.name][3] + by
            end
        end
    end
    for name, about in pairs(touched) do
        local kind, flow, by = unpack(about)
        if sizes[name] == 0 and by > 0 then
            redis.call('ZADD', key('flows:' .. kind), '0', flow)
        elseif sizes[name] > 0 and sizes[name] + by == 0 then
            redis.call('ZREM', key('flows:' .. kind), flow)
        end
    end
    count_references()
end
