-- A page of the revisions of one state. ARGV[1]: MessagePack of {labels, after, since_latest,
--   since_time, committed_before, latest_only, statuses, limit, max_bytes, from, id}, as of page;
--   from is what an earlier call returned.
-- Returns MessagePack of what page returns. The revisions of a state are a chain, each with the one
-- before it, so this goes back to the cursor, and the page is the end of what it has found.
local STEPS, MAX_BYTES = 1000, 4000000
local labels, after, since_latest, since_time, committed_before, latest_only, statuses, limit,
    max_bytes, from, id = unpack(cmsgpack.unpack(ARGV[1]))
local head, floor = head_and_floor()
-- Where to go on, whether the chain leads there, and the lowest matches so far, in falling order.
local rev, is_known, found = 0, true, {}
if from then
    head, rev, is_known, found = unpack(from)
else
    local state = latest_of(redis.call('HGET', prefix .. 'latest', id))
    if not state.rev and latest_only then
        corrupt('is damaged: the latest revision of a state is unknown')
    end
    rev = not latest_only and state.last or state.rev
    rev, is_known = rev or head, rev ~= nil
end
local start = not from and is_known and rev

local function has_labels(entry)
    local own, list = {}, texts_in(entry.l)
    for place = 1, #list - 1, 2 do
        own[list[place]] = list[place + 1]
    end
    for _, wanted in ipairs(labels) do
        local has_all = true
        for place = 1, #wanted, 2 do
            has_all = has_all and own[wanted[place]] == wanted[place + 1]
        end
        if has_all then
            return true
        end
    end
    return #labels == 0
end

local function has_status(entry)
    for _, status in ipairs(statuses) do
        if entry.s == status then
            return true
        end
    end
end

-- Where the chain is broken, the log is looked through, as far as it has everything.
local function before(rev)
    local entry = rev > floor and redis.call(
        'XREVRANGE', prefix .. 'log', text(rev - 1) .. '-0', text(floor) .. '-0', 'COUNT', '1')[1]
    return entry and fields(entry).rev or 0
end

-- Look at one revision; return how many bytes it has.
local function step()
    local entry = revision(rev)
    if not entry or entry.i ~= id then
        -- One that the chain leads to, and that is not there, is damaged unless it was compacted.
        local is_lost = is_known and (rev >= floor or rev == start)
        if is_lost then
            found[#found + 1] = rev
        end
        rev, is_known = not latest_only and not (is_lost and since_latest) and before(rev) or 0, false
        return #(entry and entry.b or '')
    end
    local time, previous = tonumber(entry.c or ''), tonumber(entry.p or '')
    local is_early = since_time and time and time < since_time
    local is_late = committed_before and time and time >= committed_before
    local matches = not is_early and not is_late and has_status(entry) and has_labels(entry)
    if matches then
        found[#found + 1] = rev
    end
    if is_early or latest_only or since_latest and matches then
        rev = 0
    elseif previous and previous < rev then
        rev, is_known = previous, true
    else
        rev, is_known = before(rev), false
    end
    return #(entry.b or '')
end

local steps, bytes = 0, 0
while rev > after and steps < STEPS and bytes < MAX_BYTES do
    steps, bytes = steps + 1, bytes + step()
end
if rev > after then
    local lowest = {}
    for place = math.max(1, #found - limit), #found do
        lowest[#lowest + 1] = found[place]
    end
    return cmsgpack.pack({head, floor, false, {}, {head, rev, is_known, lowest}})
end
local page, stop = {}, false
bytes = 0
for place = #found, 1, -1 do
    if #page == limit or bytes >= max_bytes then
        stop = found[place + 1]
        break
    end
    local row = stored(found[place], id)
    -- Between two calls some may have been compacted.
    if row[5] or row[1] >= floor or row[1] == start then
        page[#page + 1] = row
        bytes = bytes + #(row[5] or '')
    end
end
return cmsgpack.pack({head, floor, stop, page, false})
