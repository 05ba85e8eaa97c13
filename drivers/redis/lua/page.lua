-- A page of revisions. ARGV[1]: MessagePack of {labels, after, since_latest, since_time,
--   committed_before, latest_only, statuses, limit, max_bytes, from}, false for what is not given;
--   labels is a list of lists {key, value, ...}; from is where the search for the newest revision
--   goes on.
-- Returns MessagePack of {head, floor, up to which revision all matches are in the page or false
--   for all there are, revisions, false}, or of {head, floor, false, {}, from} when the search for
--   the newest revision has to be gone on with.
local ROUNDS = 20
local labels, after, since_latest, since_time, committed_before, latest_only, statuses, limit,
    max_bytes, from = unpack(cmsgpack.unpack(ARGV[1]))
local head, floor = head_and_floor()
local upto = head

-- The last revision that was committed before a time; times rise with revisions.
local function last_before(time)
    local low, high = 0, head
    while low < high do
        local middle = math.floor((low + high + 1) / 2)
        local entry = redis.call(
            'XREVRANGE', prefix .. 'log', text(middle) .. '-0', '-', 'COUNT', '1')[1]
        if entry and (tonumber(fields(entry).c) or 0) >= time then
            high = middle - 1
        else
            low = middle
        end
    end
    return low
end

-- The revisions with a status, in the form of postings: see ranked.
local function listed(name, low, high, count, backwards)
    local command = backwards and 'XREVRANGE' or 'XRANGE'
    if backwards then
        low, high = high, low
    end
    local found = redis.call(
        command, prefix .. name, text(low) .. '-0', text(high) .. '-0', 'COUNT', text(count))
    for place, entry in ipairs(found) do
        found[place] = {fields(entry).rev}
    end
    return found
end

-- A search in the shortest of some postings, for what is in the others too.
local function label_search(list, status)
    local names = postings_of(latest_only and 'latest_label' or 'label', status, list)
    return {find = ranked, name = table.remove(names, 1), others = names}
end

local function searches()
    local found = {}
    for _, status in ipairs(statuses) do
        for _, list in ipairs(labels) do
            found[#found + 1] = label_search(list, status)
        end
        if #labels == 0 and latest_only then
            found[#found + 1] = {find = ranked, name = 'latest_status:' .. status, others = {}}
        elseif #labels == 0 then
            found[#found + 1] = {find = listed, name = 'status:' .. status, others = {}}
        end
    end
    return found
end

-- What one look finds, in order, and at which revision it broke off; false: it has seen all.
local function look(search, low, high, count, backwards)
    if low > high then
        return {}, false
    end
    if #search.others == 0 then
        return search.find(search.name, low, high, count, backwards), false
    end
    local found = search.find(search.name, low, high, SCAN_LIMIT, backwards)
    return intersected(found, search.others), #found == SCAN_LIMIT and found[SCAN_LIMIT][1]
end

-- Going back from a revision, all postings have to have something further back.
local function skip(search, high)
    for _, name in ipairs(search.others) do
        local before = ranked(name, after + 1, high - 1, 1, true)[1]
        high = before and math.min(high, before[1] + 1) or 0
        if high == 0 then
            break
        end
    end
    return high
end

-- The newest match, or false and from where to go on.
local function newest(chosen)
    local high = from or upto
    for _ = 1, ROUNDS do
        local best, seen_from = 0, 0
        for _, search in ipairs(chosen) do
            local found, broke_off = look(search, after + 1, high, 1, true)
            best = math.max(best, found[1] and found[1][1] or 0)
            if broke_off and best < broke_off then
                seen_from = math.max(seen_from, skip(search, broke_off))
            end
        end
        if best >= seen_from then
            return best
        end
        high = seen_from - 1
    end
    return false, high
end

local function matches(chosen)
    local all, revs, stop = {}, {}, false
    for _, search in ipairs(chosen) do
        local found, broke_off = look(search, after + 1, upto, limit + 1)
        for _, each in ipairs(found) do
            all[each[1]] = each[2] or ''
        end
        stop = broke_off and math.min(stop or broke_off, broke_off) or stop
    end
    for rev in pairs(all) do
        if not stop or rev <= stop then
            revs[#revs + 1] = rev
        end
    end
    table.sort(revs)
    return all, revs, stop
end

if since_time then
    after = math.max(after, last_before(since_time))
end
if committed_before then
    upto = last_before(committed_before)
end
local chosen = searches()
if since_latest then
    local found, high = newest(chosen)
    if not found then
        return cmsgpack.pack({head, floor, false, {}, high})
    end
    after = math.max(after, found > 0 and found - 1 or head)
end
local all, revs, stop = matches(chosen)
local page, bytes = {}, 0
for place, rev in ipairs(revs) do
    if place > limit or bytes >= max_bytes then
        stop = revs[place - 1]
        break
    end
    page[place] = stored(rev, latest_only and all[rev] or '')
    bytes = bytes + #(page[place][5] or '')
end
return cmsgpack.pack({head, floor, stop, page, false})
