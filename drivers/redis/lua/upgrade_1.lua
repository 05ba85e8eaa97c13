-- Brings a store of version 1 to version 2, a part with each call. ARGV: at most how many.
-- Returns how much was done; 0 at the end. Several processes may do it at the same time.
--
-- Version 1 had postings of labels without the status, "stalls" with scores in microseconds since
-- 1970, "due" for delays of all flows, and in "delays" {due, state id, revision, body}. Its commits
-- fail from the first part on, because they want the field "last".
local _, texts_in, fields = entry_reading()
local _, _, is_time = delay_reading()
local EPOCH = '062135596800000000'
local meta = redis.call('HMGET', prefix .. 'meta', 'version', 'last', 'upgraded')
if meta[1] ~= '1' then
    return 0
end
if meta[2] then
    redis.call('HSET', prefix .. 'meta', 'stamp', meta[2], 'upgraded', '0')
    redis.call('HDEL', prefix .. 'meta', 'last')
end

local function table_in(decode, value)
    local whole, found = pcall(decode, value or '')
    return whole and type(found) == 'table' and found or {}
end

local function text_in(found, field)
    return type(found) == 'table' and type(found[field]) == 'string' and found[field] or ''
end

local function upgrade_revision(entry)
    local value = redis.call('HGET', prefix .. 'latest', entry.i) or ''
    local rev, after = string.match(value, '^(%d+) %l+ %d ?(%d*)')
    local is_latest = tonumber(rev or '') == entry.rev
    local labels = texts_in(entry.l)
    for place = 1, #labels - 1, 2 do
        local label = #labels[place] .. ':' .. labels[place] .. labels[place + 1]
        redis.call('UNLINK', prefix .. 'label:' .. label, prefix .. 'latest_label:' .. label)
        label = entry.s .. ':' .. label
        collect(additions, 'ZADD', 'label:' .. label, text(entry.rev), text(entry.rev))
        if is_latest then
            collect(additions, 'ZADD', 'latest_label:' .. label, text(entry.rev), entry.i)
        end
    end
    local score = is_latest and redis.call('ZSCORE', prefix .. 'stalls', entry.i)
    if score then
        local due = later(0, math.min(math.max(score, 0), 2 ^ 53), EPOCH)
        set_latest(entry.i, {}, text(entry.rev), entry.s, labels[1], after ~= '' and after or '120000000',
            due, text_in(table_in(cjson.decode, entry.b).transition, 'to'))
    end
end

local function upgrade_log(after)
    local found = redis.call('XRANGE', prefix .. 'log', text(after + 1) .. '-0', '+', 'COUNT', ARGV[1])
    for _, each in ipairs(found) do
        local entry = fields(each)
        if entry.i and entry.s then
            upgrade_revision(entry)
        end
        redis.call('HSET', prefix .. 'meta', 'upgraded', text(entry.rev))
    end
    return #found
end

local function checksums_of(state)
    local sums, seen = {}, {}
    local data = type(state) == 'table' and type(state.data) == 'table' and state.data or {}
    for _, ref in pairs(data) do
        local sum = text_in(ref, 'checksum')
        if sum ~= '' and not seen[sum] and redis.call('EXISTS', prefix .. 'data:' .. sum) == 1 then
            seen[sum] = true
            sums[#sums + 1] = sum
        end
    end
    return sums
end

local delays = delay_changes({})

local function upgrade_delay(due, id)
    local found = table_in(cmsgpack.unpack, redis.call('HGET', prefix .. 'delays', id))
    local body = text_in(found, 4)
    local decoded = table_in(cjson.decode, body)
    local sums = checksums_of(decoded.state)
    delays.store({id = id, due = due, state = text_in(found, 2), rev = tonumber(found[3]) or 0,
        flow = text_in(decoded, 'to'), holder = '', references = sums})
    collect(additions, 'HSET', 'delay_bodies', id, body)
    refer(sums, 1)
end

local function upgrade_delays()
    local members = redis.call('ZRANGE', prefix .. 'due', '0', text(ARGV[1] - 1))
    for _, member in ipairs(members) do
        local due = string.sub(member, 1, 18)
        if is_time(due) then
            upgrade_delay(due, string.sub(member, 19))
        end
        collect(removals, 'ZREM', 'due', member)
    end
    return #members
end

local done = upgrade_log(tonumber(redis.call('HGET', prefix .. 'meta', 'upgraded') or '0'))
if done == 0 then
    done = upgrade_delays()
end
write()
if done == 0 then
    redis.call('UNLINK', prefix .. 'due', prefix .. 'delays', prefix .. 'delays_of', prefix .. 'stalls')
    redis.call('HSET', prefix .. 'meta', 'version', '2')
    redis.call('HDEL', prefix .. 'meta', 'upgraded')
end
return done
