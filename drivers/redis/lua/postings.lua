-- Put in front of the scripts that search. Postings are sorted sets of revisions, or of ids with their
-- latest revisions.
local SCAN_LIMIT = 1000

-- A list of {revision, member} in order.
local function ranked(name, low, high, count, backwards)
    local command = backwards and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE'
    if backwards then
        low, high = high, low
    end
    local range, found = redis.call(command, prefix .. name, text(low), text(high), 'WITHSCORES',
        'LIMIT', '0', text(count)), {}
    for place = 1, #range, 2 do
        found[#found + 1] = {tonumber(range[place + 1]), range[place]}
    end
    return found
end

-- The names of the postings of some labels, the shortest first.
local function postings_of(kind, status, list)
    local names, sizes = {}, {}
    for place = 1, #list, 2 do
        local name = posting(kind, status, list[place], list[place + 1])
        names[#names + 1] = name
        sizes[name] = redis.call('ZCARD', prefix .. name)
    end
    table.sort(names, function(one, other) return sizes[one] < sizes[other] end)
    return names
end

-- Those that are in all of some other postings too.
local function intersected(found, others)
    for _, name in ipairs(others) do
        local members, left = {}, {}
        for place, each in ipairs(found) do
            members[place] = each[2]
        end
        local scores = #found > 0 and redis.call('ZMSCORE', prefix .. name, unpack(members)) or {}
        for place, each in ipairs(found) do
            if tonumber(scores[place] or '') == each[1] then
                left[#left + 1] = each
            end
        end
        found = left
    end
    return found
end
