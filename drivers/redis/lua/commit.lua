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
local meta = redis.call('HMGET', key('meta'), 'head', 'stamp')
local old_head, stamp = tonumber(meta[1] or ''), tonumber(meta[2] or '')
if not meta[1] then
    corrupt('is gone: emptied, or its server started without its data; open it again')
elseif not old_head or not stamp then
    corrupt('is damaged: its head or its last time is not a number')
end
stamp = math.max(now(), stamp)
local head, shown_stamp = old_head, text(stamp)
local states, delays, brought, NONE = {}, {}, {}, {}
local NOTHING = {'', NONE, NONE, NONE, NONE, NONE, NONE, NONE}

local function latest(id)
    local state = states[id]
    if not state then
        state = latest_of(redis.call('HGET', prefix .. 'latest', id))
        if not state.rev then
            corrupt('is damaged: the latest revision of a state is unknown')
        end
        state.current = state.rev
        states[id] = state
    end
    return state
end
sizes.meta, sizes.latest = 1, 1  -- They have been looked at.

-- Whether a put of the batch has dropped a delay.
local function is_gone(delay)
    local state = states[delay.state]
    return state and state.put and state.put.place > delay.place
end

-- A delay as it is when the commit at a place comes, or nothing.
local function pending(id)
    local delay = delays[id]
    if delay == nil then
        delay = delay_of(id) or false
        if delay then
            delay.place, delay.stored = 0, delay.due
        end
        delays[id] = delay
    end
    return delay and not delay.dropped and not is_gone(delay) and delay
end

-- What refuses a commit: the number of the kind, and a list.
local function refusal(commit)
    local found = {}
    for place = 2, 3 do
        for number = 1, #commit[place] do
            local item = commit[place][number]
            if latest(item[1]).current ~= item[2] then
                found[#found + 1] = item[1]
            end
        end
    end
    if found[1] then
        return 1, found
    end
    local own = commit[4][1] and {}
    for number = 1, own and #commit[5] or 0 do
        own[commit[5][number][1]] = true
    end
    for number = 1, #commit[4] do
        local sum = commit[4][number]
        if not own[sum] and not brought[sum]
            and redis.call('EXISTS', key('data:' .. sum)) == 0 then
            found[#found + 1] = sum
        end
    end
    if found[1] then
        return 2, found
    end
    for number = 1, #commit[7] do
        local claim = commit[7][number]
        local delay = pending(claim[1])
        if not delay or delay.due > later(0, 0) and delay.holder ~= claim[2] then
            found[#found + 1] = claim[1]
        end
    end
    return found[1] and 3, found
end

local function check_stream(name, first)
    if not sizes[name] then
        sizes[name] = 1
        local last = redis.call('XREVRANGE', prefix .. name, '+', '-', 'COUNT', '1')[1]
        local rev = last and tonumber(string.sub(last[1], 1, -3)) or 0
        if rev > old_head or rev < first then
            corrupt('is damaged: the head is ' .. text(old_head) .. ', and ' .. name
                .. ' ends at ' .. text(rev))
        end
    end
end

local verdicts = {}
for place, commit in ipairs(cmsgpack.unpack(ARGV[1])) do
    local kind, found = refusal(commit)
    local first, untils = head + 1, false
    local token, puts, _, _, data, new_delays, claims, drops = unpack(kind and NOTHING or commit)
    for number = 1, #claims do
        local id, holder, seconds, micros = unpack(claims[number])
        local delay = pending(id)
        delay.due, delay.holder, delay.moved = later(seconds, micros), holder, true
    end
    for number = 1, #drops do
        local id, holder = unpack(drops[number])
        local delay = pending(id)
        if delay and delay.holder == holder then
            delay.dropped = true
        end
    end
    -- When the delays of each put are due at the earliest.
    for number = 1, new_delays[1] and #puts or 0 do
        untils = untils or {}
        untils[number] = false
    end
    for number = 1, #new_delays do
        local delay = new_delays[number]
        local put = delay[2]
        delay[5] = delay[5] or later(delay[6], delay[7])
        if put and (not untils[put] or delay[5] < untils[put]) then
            untils[put] = delay[5]
        end
    end
    for number = 1, #puts do
        local put = puts[number]
        local id, expected, status, body, labels, sums = unpack(put)
        local state, until_ = states[id], untils and untils[number]
        head = head + 1
        local rev = text(head)
        state.current, state.postponed = head, nil
        state.put = {rev = rev, place = place, until_ = until_, what = put}
        check_stream('log', old_head)
        check_stream('status:' .. status, 0)
        additions[#additions + 1] = {command = 'XADD', name = 'log', rev .. '-0', 'i', id,
            'p', text(expected), 's', status, 'c', shown_stamp, 'u', until_ or '', 't', token,
            'l', labels[1] and cmsgpack.pack(labels) or '',
            'r', sums[1] and cmsgpack.pack(sums) or '', 'b', body}
        additions[#additions + 1] = {
            command = 'XADD', name = 'status:' .. status, rev .. '-0', '', ''}
        for label = 1, #labels, 2 do
            collect(additions, 'ZADD',
                posting('label', status, labels[label], labels[label + 1]), rev, rev)
        end
        refer(sums, 1)
    end
    for number = 1, #new_delays do
        local id, put, of, rev, due, _, _, flow, body, sums = unpack(new_delays[number])
        local state = latest(of)
        rev = put and first + put - 1 or rev
        -- One that is there already was stored by an earlier attempt of the same commit.
        if not pending(id) then
            delays[id] = {id = id, due = due, state = of, rev = rev, flow = flow, holder = '',
                references = sums, body = body, place = place}
        end
        if not put and state.current == rev and due > (state.postponed or '') then
            state.postponed = due
        end
    end
    for number = 1, #data do
        local sum, annotations, blob = unpack(data[number])
        brought[sum] = true
        refer({sum}, 0)
        additions[#additions + 1] = {command = 'HSET', name = 'data:' .. sum,
            'annotations', annotations, 'blob', ARGV[1 + blob], 'stored_at', text(first - 1)}
    end
    verdicts[place] = kind and {kind, found} or {0, first, untils}
end

-- A delay leaves its place, for another one or for ever.
local function leave(state, due, flow, id, is_moved)
    index_due(removals, 'delay', flow, due .. id)
    collect(removals, 'ZREM', 'delays_of:' .. state, due .. pair(flow, id))
    if not is_moved then
        local delay = delay_of(id)
        refer(delay and delay.references or {}, -1)
        collect(removals, 'HDEL', 'delay_heads', id)
        collect(removals, 'HDEL', 'delay_bodies', id)
    end
end

for id, state in pairs(states) do
    local new = state.put
    if new then
        local _, _, status, _, labels, _, after, flow = unpack(new.what)
        -- Remove what the old revision had as the latest one: labels, heartbeats, and delays.
        if state.status and state.status ~= status then
            collect(removals, 'ZREM', 'latest_status:' .. state.status, id)
        end
        if state.labelled then
            local entry = revision(state.rev)
            if not entry then
                corrupt('is damaged: revision ' .. text(state.rev) .. ' is not stored')
            end
            local old = texts_in(entry.l)
            for number = 1, #old - 1, 2 do
                collect(removals, 'ZREM',
                    posting('latest_label', state.status, old[number], old[number + 1]), id)
            end
        end
        if state.status and size_of('HLEN', 'beats') > 0 then
            collect(removals, 'HDEL', 'beats', id)
        end
        -- A delay can be stored before the first revision.
        local may_have_delays = state.status or size_of('HLEN', 'delay_heads') > 0
        for _, delay in ipairs(may_have_delays and delays_of(id, '0', '-1') or NONE) do
            leave(id, delay.due, delay.flow, delay.id)
        end
        collect(additions, 'ZADD', 'latest_status:' .. status, new.rev, id)
        for number = 1, #labels, 2 do
            collect(additions, 'ZADD',
                posting('latest_label', status, labels[number], labels[number + 1]), new.rev, id)
        end
        local due = after and later(0, tonumber(after), new.until_)
        set_latest(id, state, new.rev, status, labels[1], after, due, flow)
    elseif state.postponed and state.after then
        -- A state that is delayed without a new revision stalls no earlier than after that delay,
        -- by the rules of the revision that is stored.
        local due = later(0, tonumber(state.after), state.postponed)
        if due > state.due then
            set_latest(id, state, text(state.rev), state.status, state.labelled, state.after, due,
                state.flow)
        end
    end
end

local alarm = false
for id, delay in pairs(delays) do
    if delay and not is_gone(delay) and (delay.body or delay.moved or delay.dropped) then
        if delay.stored then
            leave(delay.state, delay.stored, delay.flow, id, not delay.dropped)
        end
        if not delay.dropped then
            add_delay(delay)
            alarm = alarm or delay.body or delay.due <= later(0, 0)
            if delay.body then
                collect(additions, 'HSET', 'delay_bodies', id, delay.body)
                refer(delay.references, 1)
            end
        end
    end
end
if alarm then
    size_of('XLEN', 'alarm')
    additions[#additions + 1] = {command = 'XADD', name = 'alarm', 'MAXLEN', '1', '*', '', ''}
end
-- A script that has begun goes on when the memory is full: so it begins with what is refused then,
-- unless it only makes room.
if additions[1] then
    collect(beginning, 'HSET', 'meta', 'head', text(head))
    collect(beginning, 'HSET', 'meta', 'stamp', shown_stamp)
end
write()
return cmsgpack.pack({stamp, verdicts})
