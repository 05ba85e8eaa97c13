-- Counts states by the status and the labels of their latest revisions. ARGV[1]: MessagePack of
--   {labels, statuses, from}; labels is a list of lists {key, value, ...}; from is where to go on, or
--   false.
-- Returns MessagePack of {how many, where to go on, or false at the end}.
local ROUNDS = 20
local labels, statuses, from = unpack(cmsgpack.unpack(ARGV[1]))
local head = tonumber(redis.call('HGET', prefix .. 'meta', 'head') or '0') or 0
-- The number of a search, above which revision it goes on, and up to which: what is committed
-- meanwhile is not looked at, so that nothing is counted twice.
local number, after, upto = unpack(from or {1, 0, head})
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

-- How many no earlier search has found.
local function count_new(found, earlier)
    local seen, left = {}, #found
    for _, names in ipairs(earlier) do
        for _, each in ipairs(intersected(found, names)) do
            left = seen[each[2]] and left or left - 1
            seen[each[2]] = true
        end
    end
    return left
end

for _ = 1, ROUNDS do
    local search = searches[number]
    if not search then
        break
    elseif #search.others == 0 and #search.earlier == 0 then
        count, number = count + redis.call('ZCARD', prefix .. search.name), number + 1
    else
        local found = ranked(search.name, after + 1, upto, SCAN_LIMIT)
        count = count + count_new(intersected(found, search.others), search.earlier)
        if #found < SCAN_LIMIT then
            number, after = number + 1, 0
        else
            after = found[SCAN_LIMIT][1]
        end
    end
end
return cmsgpack.pack({count, searches[number] and {number, after, upto} or false})
