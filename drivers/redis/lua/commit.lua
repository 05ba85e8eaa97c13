-- Judges a batch of independent commits one after the other, and stores what is not refused.
--
-- ARGV: blobs after the first, which is MessagePack of a list of commits:
--   {token, puts, checks, needs, data, delays, claims, drops}, with
--   put {id, expected revision, status, body, labels {key, value, ...}, checksums, digits of the
--   microseconds after which it stalls or false, flow}, check {id, revision},
--   data {checksum, annotations, place of its blob},
--   delay {id, place of put or false, state id, revision, due or false, seconds and microseconds
--   after now, flow, body, checksums}, claim {id, holder, seconds and microseconds from now},
--   drop {id, holder}.
-- Returns MessagePack of {stamp, verdicts}, each verdict one of
--   {0, first revision, untils of the puts or false}, {1, mismatched ids}, {2, missing checksums},
--   {3, ids of delays that cannot be claimed}.
local batch = cmsgpack.unpack(ARGV[1])
local meta = redis.call('HMGET', key('meta'), 'head', 'stamp')
if not meta[1] then
    corrupt('is gone: emptied, or its server started without its data; open it again')
elseif not tonumber(meta[1]) or not tonumber(meta[2]) then
    corrupt('is damaged: its head or its last time is not a number')
end
local old_head, stamp = tonumber(meta[1]), math.max(now(), tonumber(meta[2]))
local head = old_head
local states, delays, brought, put_by = {}, {}, {}, {}

local function latest(id)
    if not states[id] then
        local state = latest_of(redis.call('HGET', key('latest'), id))
        sizes.latest = 1  -- That was a look at it.
        if not state.rev then
            corrupt('is damaged: the latest revision of a state is unknown')
        end
        state.current = state.rev
        states[id] = state
    end
    return states[id]
end

-- A delay as it is when the commit at a place comes, or nothing.
local function pending(id)
    if delays[id] == nil then
        local delay = delay_of(id)
        if delay then
            delay.place, delay.stored = 0, delay.due
        end
        delays[id] = delay or false
    end
    local delay = delays[id]
    if delay and not delay.dropped and (put_by[delay.state] or 0) <= delay.place then
        return delay
    end
end

local function mismatches(commit)
    local ids = {}
    for place = 2, 3 do
        for _, item in ipairs(commit[place]) do
            if latest(item[1]).current ~= item[2] then
                ids[#ids + 1] = item[1]
            end
        end
    end
    return ids
end

local NONE = {}

local function missing(commit)
    if #commit[4] == 0 then
        return NONE
    end
    local own, sums = {}, {}
    for _, data in ipairs(commit[5]) do
        own[data[1]] = true
    end
    for _, sum in ipairs(commit[4]) do
        if not own[sum] and not brought[sum]
            and redis.call('EXISTS', key('data:' .. sum)) == 0 then
            sums[#sums + 1] = sum
        end
    end
    return sums
end

local function lost(commit)
    local ids = {}
    for _, claim in ipairs(commit[7]) do
        local delay = pending(claim[1])
        if not delay or delay.due > later(0, 0) and delay.holder ~= claim[2] then
            ids[#ids + 1] = claim[1]
        end
    end
    return ids
end

local function change_delays(commit)
    for _, claim in ipairs(commit[7]) do
        local delay = pending(claim[1])
        delay.due, delay.holder, delay.moved = later(claim[3], claim[4]), claim[2], true
    end
    for _, drop in ipairs(commit[8]) do
        local delay = pending(drop[1])
        if delay and delay.holder == drop[2] then
            delay.dropped = true
        end
    end
end

local function earliest_of(commit)
    local untils = #commit[6] > 0 and {}
    for number = 1, untils and #commit[2] or 0 do
        untils[number] = false
    end
    for _, delay in ipairs(commit[6]) do
        local number = delay[2]
        delay[5] = delay[5] or later(delay[6], delay[7])
        if number and (not untils[number] or delay[5] < untils[number]) then
            untils[number] = delay[5]
        end
    end
    return untils
end

local function apply_puts(commit, place, untils)
    for number, put in ipairs(commit[2]) do
        head = head + 1
        local state = latest(put[1])
        state.current, state.put, state.postponed = head, put, nil
        state.until_ = untils and untils[number]
        put_by[put[1]] = place
    end
end

-- One that is there already was stored by an earlier attempt of the same commit.
local function apply_delays(commit, place, first)
    for _, new in ipairs(commit[6]) do
        local state = latest(new[3])
        local rev = new[2] and first + new[2] - 1 or new[4]
        if not pending(new[1]) then
            delays[new[1]] = {id = new[1], due = new[5], state = new[3], rev = rev, flow = new[8],
                holder = '', references = new[10], body = new[9], place = place}
        end
        if not new[2] and state.current == rev and new[5] > (state.postponed or '') then
            state.postponed = new[5]
        end
    end
end

local REFUSALS = {mismatches, missing, lost}

local function judge(commit, place)
    for number, refused in ipairs(REFUSALS) do
        local found = refused(commit)
        if #found > 0 then
            return {number, found}
        end
    end
    for _, data in ipairs(commit[5]) do
        brought[data[1]] = true
    end
    local first, untils = head + 1, earliest_of(commit)
    change_delays(commit)
    apply_puts(commit, place, untils)
    apply_delays(commit, place, first)
    return {0, first, untils}
end

local verdicts = {}
for place, commit in ipairs(batch) do
    verdicts[place] = judge(commit, place)
end

-- From here on it collects what has to be written.
local entries, blobs, checked = {}, {}, {}

local function check_stream(name, first)
    if not checked[name] then
        checked[name] = true
        local last = redis.call('XREVRANGE', key(name), '+', '-', 'COUNT', '1')[1]
        local rev = last and rev_of(last[1]) or 0
        if rev > old_head or rev < first then
            corrupt('is damaged: the head is ' .. text(old_head) .. ', and ' .. name
                .. ' ends at ' .. text(rev))
        end
    end
end

local function collect_put(token, put, rev, until_)
    local labels, status = put[5], put[3]
    check_stream('log', old_head)
    check_stream('status:' .. status, 0)
    entries[#entries + 1] = {'log', entry_id(rev), 'i', put[1], 'p', text(put[2]), 's', status,
        'c', text(stamp), 'u', until_ or '', 't', token,
        'l', #labels > 0 and cmsgpack.pack(labels) or '',
        'r', #put[6] > 0 and cmsgpack.pack(put[6]) or '', 'b', put[4]}
    entries[#entries + 1] = {'status:' .. status, entry_id(rev), '', ''}
    for place = 1, #labels, 2 do
        collect(additions, 'ZADD', posting('label', status, labels[place], labels[place + 1]),
            text(rev), text(rev))
    end
    refer(put[6], 1)
end

for place, commit in ipairs(batch) do
    local kind, first, untils = unpack(verdicts[place])
    if kind == 0 then
        for number, put in ipairs(commit[2]) do
            collect_put(commit[1], put, first + number - 1, untils and untils[number])
        end
        for _, data in ipairs(commit[5]) do
            refer({data[1]}, 0)
            blobs[#blobs + 1] = {data, first - 1}
        end
    end
end

local function collect_labels(where, command, id, status, labels, rev)
    for place = 1, #labels, 2 do
        local name = posting('latest_label', status, labels[place], labels[place + 1])
        if rev then
            collect(where, command, name, rev, id)
        else
            collect(where, command, name, id)
        end
    end
end

local function leave_old(id, state)
    if state.status and state.status ~= state.put[3] then
        collect(removals, 'ZREM', 'latest_status:' .. state.status, id)
    end
    if state.labelled then
        local entry = revision(state.rev)
        if not entry then
            corrupt('is damaged: revision ' .. text(state.rev) .. ' is not stored')
        end
        collect_labels(removals, 'ZREM', id, state.status, cmsgpack.unpack(entry.l))
    end
    -- Heartbeats were for what is replaced.
    if state.status and size_of('H', 'beats') > 0 then
        collect(removals, 'HDEL', 'beats', id)
    end
    for _, delay in ipairs(members_of_state(id)) do
        unindex_due('delay', delay.flow, delay.due .. delay.id)
        collect(removals, 'ZREM', 'delays_of:' .. id,
            delay.due .. pair(delay.flow, delay.id))
        collect(removals, 'HDEL', 'delay_heads', delay.id)
        collect(removals, 'HDEL', 'delay_bodies', delay.id)
        local whole = delay_of(delay.id)
        refer(whole and whole.references or {}, -1)
    end
end

local function enter_new(id, state)
    local put, rev = state.put, text(state.current)
    collect(additions, 'ZADD', 'latest_status:' .. put[3], rev, id)
    collect_labels(additions, 'ZADD', id, put[3], put[5], rev)
    if put[7] then
        local after = tonumber(put[7])
        state.new_due = state.until_ and plus(state.until_, after) or later(0, after)
    end
    collect(additions, 'HSET', 'latest', id,
        latest_value(state.current, put[3], #put[5] > 0, put[7], state.new_due, put[8]))
end

local function move_stall(id, state, flow)
    if state.after then
        unindex_due('stall', state.flow, state.due .. id)
    end
    if state.new_due then
        index_due('stall', flow, state.new_due .. id)
    end
end

-- A state that is delayed without a new revision stalls no earlier than after that delay, by the
-- rules of the revision that is stored.
local function postpone(id, state)
    local due = plus(state.postponed, tonumber(state.after))
    if due > state.due then
        state.new_due = due
        collect(additions, 'HSET', 'latest', id, latest_value(
            state.rev, state.status, state.labelled, state.after, due, state.flow))
        move_stall(id, state, state.flow)
    end
end

for id, state in pairs(states) do
    if state.put then
        leave_old(id, state)
        enter_new(id, state)
        move_stall(id, state, state.put[8])
    elseif state.postponed and state.after then
        postpone(id, state)
    end
end

local function leave_place(delay)
    unindex_due('delay', delay.flow, delay.stored .. delay.id)
    collect(removals, 'ZREM', 'delays_of:' .. delay.state,
        delay.stored .. pair(delay.flow, delay.id))
end

local function collect_delay(delay)
    if delay.stored then
        leave_place(delay)
    end
    if not delay.dropped then
        add_delay(delay)
        if delay.body then
            collect(additions, 'HSET', 'delay_bodies', delay.id, delay.body)
            refer(delay.references, 1)
        end
    elseif delay.stored then
        collect(removals, 'HDEL', 'delay_heads', delay.id)
        collect(removals, 'HDEL', 'delay_bodies', delay.id)
        refer(delay.references, -1)
    end
end

local alarm = false
for id, delay in pairs(delays) do
    local is_gone = delay and (put_by[delay.state] or 0) > delay.place
    if delay and not is_gone and (delay.body or delay.moved or delay.dropped) then
        collect_delay(delay)
        alarm = alarm or not delay.dropped and (delay.body or delay.due <= later(0, 0))
    end
end
if alarm then
    size_of('X', 'alarm')
end
check_flows()

-- From here on it writes. A script that has begun goes on when the memory is full: so it begins
-- with what is refused then, unless it only makes room.
if head > old_head or #blobs > 0 or #additions > 0 then
    redis.call('HSET', key('meta'), 'head', text(head), 'stamp', text(stamp))
end
for _, entry in ipairs(entries) do
    redis.call('XADD', key(entry[1]), unpack(entry, 2))
end
for _, each in ipairs(blobs) do
    local data, stored_at = unpack(each)
    redis.call('HSET', key('data:' .. data[1]), 'annotations', data[2],
        'blob', ARGV[1 + data[3]], 'stored_at', text(stored_at))
end
write()
if alarm then
    redis.call('XADD', key('alarm'), 'MAXLEN', '1', '*', '', '')
end
return cmsgpack.pack({stamp, verdicts})
