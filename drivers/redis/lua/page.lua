-- A page of revisions. ARGV[1]: MessagePack of {labels, after, since_latest, since_time,
--   committed_before, latest_only, status, statuses, limit, gaps_below}, false for what is not
--   given; labels is a list of lists {key, value, ...}.
-- Returns MessagePack of {head, floor, revision where the search broke off or false, revisions};
--   one revision more than the limit, if there is more.
local SCAN_LIMIT = 2000
local labels, after, since_latest, since_time, committed_before, latest_only, status, statuses,
    limit = unpack(cmsgpack.unpack(ARGV[1]))
local meta = redis.call('HMGET', key('meta'), 'head', 'floor')
-- A store that is gone is empty, and whoever has seen more of it hears that it was rewound.
local head, floor = tonumber(meta[1] or '0'), tonumber(meta[2] or '1')
local upto = head

-- The last revision that was committed before a time; times rise with revisions.
local function last_before(time)
    local low, high = 0, head
    while low < high do
        local middle = math.floor((low + high + 1) / 2)
        local entry = redis.call('XREVRANGE', key('log'), entry_id(middle), '-', 'COUNT', '1')[1]
        if entry and tonumber(fields(entry).c) >= time then
            high = middle - 1
        else
            low = middle
        end
    end
    return low
end

local function rank(set, low, high, count, backwards)
    if low > high then
        return {}
    end
    local command = backwards and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE'
    local first, last = text(low), text(high)
    if backwards then
        first, last = last, first
    end
    local found, revs = redis.call(
        command, key(set), first, last, 'WITHSCORES', 'LIMIT', '0', text(count)), {}
    for place = 2, #found, 2 do
        revs[#revs + 1] = tonumber(found[place])
    end
    return revs
end

local function entries(stream, low, high, count, backwards)
    if low > high then
        return {}
    end
    local found
    if backwards then
        found = redis.call('XREVRANGE', key(stream), entry_id(high), entry_id(low), 'COUNT', text(count))
    else
        found = redis.call('XRANGE', key(stream), entry_id(low), entry_id(high), 'COUNT', text(count))
    end
    local revs = {}
    for place, entry in ipairs(found) do
        revs[place] = rev_of(entry[1])
    end
    return revs
end

-- Searches that give revisions in order, each {search, name, tests}.
local function label_search(list)
    local prefix = latest_only and 'latest_label:' or 'label:'
    local names, sizes = {}, {}
    for place = 1, #list, 2 do
        local name = prefix .. pair(list[place], list[place + 1])
        names[#names + 1] = name
        sizes[name] = redis.call('ZCARD', key(name))
    end
    table.sort(names, function(one, other) return sizes[one] < sizes[other] end)
    local first = table.remove(names, 1)
    return {rank, first, (#names > 0 or status) and names}
end

local function searches()
    local found = {}
    for place, list in ipairs(labels) do
        found[place] = label_search(list)
    end
    if #found == 0 and latest_only then
        for place, each in ipairs(status and {status} or statuses) do
            found[place] = {rank, 'latest_status:' .. each, false}
        end
    elseif #found == 0 then
        found[1] = {entries, status and 'status:' .. status or 'log', false}
    end
    return found
end

local function passes(rev, names)
    local entry = revision(rev)
    if not entry or status and entry.s ~= status then
        return false
    end
    for _, name in ipairs(names) do
        local score = redis.call('ZSCORE', key(name), latest_only and entry.i or text(rev))
        if tonumber(score) ~= rev then
            return false
        end
    end
    return true
end

local function newest(search)
    local find, name, tests = unpack(search)
    local high = upto
    while true do
        local revs = find(name, 1, high, tests and SCAN_LIMIT or 1, true)
        for _, rev in ipairs(revs) do
            if not tests or passes(rev, tests) then
                return rev
            end
        end
        if #revs == 0 then
            return 0
        end
        high = revs[#revs] - 1
    end
end

local all, stop = {}, false
if since_time then
    after = math.max(after, last_before(since_time))
end
if committed_before then
    upto = last_before(committed_before)
end
local chosen = searches()
if since_latest then
    local found = 0
    for _, search in ipairs(chosen) do
        found = math.max(found, newest(search))
    end
    after = math.max(after, found > 0 and found - 1 or head)
end
for _, search in ipairs(chosen) do
    local find, name, tests = unpack(search)
    local revs = find(name, after + 1, upto, tests and SCAN_LIMIT or limit + 1)
    for _, rev in ipairs(revs) do
        if not tests or passes(rev, tests) then
            all[rev] = true
        end
    end
    if tests and #revs == SCAN_LIMIT then
        stop = math.min(stop or revs[#revs], revs[#revs])
    end
end
local revs, page = {}, {}
for rev in pairs(all) do
    if not stop or rev <= stop then
        revs[#revs + 1] = rev
    end
end
table.sort(revs)
for place = 1, math.min(#revs, limit + 1) do
    page[place] = stored(revision(revs[place]))
end
return cmsgpack.pack({head, floor, stop, page})
