-- Brings a store of version 1 to version 2, a part with each call. ARGV: at most how many.
-- Returns how much was done; 0 at the end. Several processes may do it at the same time.
--
-- Version 1 had postings of labels without the status, "stalls" with scores in microseconds since
-- 1970, "due" for delays of all flows, and in "delays" {due, state id, revision, body}. Its commits
-- fail from the first part on, because they want the field "last".
local limit = tonumber(ARGV[1])
local meta = redis.call('HMGET', key('meta'), 'version', 'last', 'head', 'upgraded')
if meta[1] ~= '1' then
    return 0
end
if meta[2] then
    redis.call('HSET', key('meta'), 'stamp', meta[2], 'upgraded', '0')
    redis.call('HDEL', key('meta'), 'last')
end

local function decoded(body)
    local whole, found = pcall(cjson.decode, body or '')
    return whole and type(found) == 'table' and found or {}
end

local function text_in(table_, field)
    return type(table_) == 'table' and type(table_[field]) == 'string' and table_[field] or ''
end

local function upgrade_latest(entry, after)
    local id, score = entry.i, tonumber(redis.call('ZSCORE', key('stalls'), entry.i) or '')
    local due = score and digits(EPOCH, math.min(math.max(score, 0), 2 ^ 53))
    if due then
        local flow = text_in(decoded(entry.b).transition, 'to')
        collect(additions, 'HSET', 'latest', id,
            latest_value(entry.rev, entry.s, entry.l ~= '', after, due, flow))
        index_due('stall', flow, due .. id)
    end
end

local function upgrade_revision(entry)
    local value = redis.call('HGET', key('latest'), entry.i) or ''
    local rev, after = string.match(value, '^(%d+) %l+ %d ?(%d*)')
    local is_latest = tonumber(rev or '') == entry.rev
    local labels = entry.l ~= '' and cmsgpack.unpack(entry.l) or {}
    for place = 1, #labels, 2 do
        local label, value_ = labels[place], labels[place + 1]
        redis.call('UNLINK', key('label:' .. pair(label, value_)),
            key('latest_label:' .. pair(label, value_)))
        collect(additions, 'ZADD', posting('label', entry.s, label, value_),
            text(entry.rev), text(entry.rev))
        if is_latest then
            collect(additions, 'ZADD', posting('latest_label', entry.s, label, value_),
                text(entry.rev), entry.i)
        end
    end
    if is_latest then
        upgrade_latest(entry, after ~= '' and after or '120000000')
    end
end

local function upgrade_log(after)
    local found = redis.call('XRANGE', key('log'), entry_id(after + 1), '+', 'COUNT', ARGV[1])
    for _, each in ipairs(found) do
        local entry = fields(each)
        upgrade_revision(entry)
        redis.call('HSET', key('meta'), 'upgraded', text(entry.rev))
    end
    return #found
end

local function checksums_of(state)
    local sums, seen = {}, {}
    local data = type(state) == 'table' and type(state.data) == 'table' and state.data or {}
    for _, ref in pairs(data) do
        local sum = text_in(ref, 'checksum')
        if sum ~= '' and not seen[sum] and redis.call('EXISTS', key('data:' .. sum)) == 1 then
            seen[sum] = true
            sums[#sums + 1] = sum
        end
    end
    return sums
end

local function upgrade_delay(member)
    local due, id = string.sub(member, 1, 18), string.sub(member, 19)
    local value = redis.call('HGET', key('delays'), id)
    local whole, found = pcall(cmsgpack.unpack, value or '')
    found = whole and type(found) == 'table' and found or {}
    local body = type(found[4]) == 'string' and found[4] or ''
    local delay = {id = id, due = due, state = type(found[2]) == 'string' and found[2] or '',
        rev = tonumber(found[3]) or 0, flow = text_in(decoded(body), 'to'), holder = '',
        references = checksums_of(decoded(body).state)}
    add_delay(delay)
    collect(additions, 'HSET', 'delay_bodies', id, body)
    refer(delay.references, 1)
end

local function upgrade_delays()
    local members = redis.call('ZRANGE', key('due'), '0', text(limit - 1))
    for _, member in ipairs(members) do
        if is_time(string.sub(member, 1, 18)) then
            upgrade_delay(member)
        end
        collect(removals, 'ZREM', 'due', member)
    end
    return #members
end

local done = upgrade_log(tonumber(redis.call('HGET', key('meta'), 'upgraded') or '0'))
if done == 0 then
    done = upgrade_delays()
end
write()
if done == 0 then
    redis.call('UNLINK', key('due'), key('delays'), key('delays_of'), key('stalls'))
    redis.call('HSET', key('meta'), 'version', '2')
    redis.call('HDEL', key('meta'), 'upgraded')
end
return done
