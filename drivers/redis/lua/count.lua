-- Counts states by the status and the labels of their latest revisions. ARGV[1]: MessagePack of
--   {labels, statuses, from}; labels is a list of lists {key, value, ...}; from is where to go on, or
--   false.
-- Returns MessagePack of {how many, where to go on, or false at the end}.
local ROUNDS = 20
local labels, statuses, from = unpack(cmsgpack.unpack(ARGV[1]))
local head = redis.call('HGET', prefix .. 'meta', 'head') or '0'
-- The number of a search, above which revision it goes on, and up to which: what is committed
-- meanwhile is not looked at, so that nothing is counted twice.
local number, after, upto = unpack(from or {1, '0', head})
local searches, count = {}, 0
for _, status in ipairs(statuses) do
    local earlier = {}
    for place, list in ipairs(labels) do
        local names = postings_of('latest_label', status, list)
        searches[#searches + 1] = {
            name = names[1], others = {unpack(names, 2)}, earlier = {unpack(earlier)}}
        earlier[place] = names
    end
    if #labels == 0 then
        searches[#searches + 1] = {name = 'latest_status:' .. status, others = {}, earlier = {}}
    end
end

-- Those of some ids that are in all of some postings, and the rest.
local function divided(ids, names)
    local rest = {}
    for _, name in ipairs(names) do
        local scores = ids[1] and redis.call('ZMSCORE', prefix .. name, unpack(ids)) or {}
        local left = {}
        for place, score in ipairs(scores) do
            local list = score and left or rest
            list[#list + 1] = ids[place]
        end
        ids = left
    end
    return ids, rest
end

for _ = 1, ROUNDS do
    local search = searches[number]
    if not search then
        return cmsgpack.pack({count, false})
    end
    if #search.others == 0 and #search.earlier == 0 then
        count, number = count + redis.call('ZCARD', prefix .. search.name), number + 1
    else
        local found = redis.call('ZRANGEBYSCORE', prefix .. search.name, '(' .. after, upto,
            'LIMIT', '0', SCAN_LIMIT)
        local ids, _ = divided(found, search.others)
        for _, names in ipairs(search.earlier) do
            _, ids = divided(ids, names)
        end
        count = count + #ids
        if #found < SCAN_LIMIT then
            number, after = number + 1, '0'
        else
            after = redis.call('ZSCORE', prefix .. search.name, found[SCAN_LIMIT])
        end
    end
end
return cmsgpack.pack({count, {number, after, upto}})
