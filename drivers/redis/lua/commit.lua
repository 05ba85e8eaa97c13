-- Judges a batch of independent commits one after the other, and stores what is not refused.
--
-- ARGV: blobs after the first, which is MessagePack of a list of commits:
--   {token, puts, checks, needs, data, delays, claims, drops}, false for what is empty, with
--   put {id, expected revision, status, body, labels {key, value, ...}, checksums, digits of the
--   microseconds after which it stalls or false, flow, whether it is forgotten, whether it keeps
--   the delays that were committed with it, and then until when it is delayed or false},
--   check {id, revision}, data {checksum, annotations, place of its blob},
--   delay {id, place of put or false, state id, revision or -1 of a timer, due or false, seconds
--   and microseconds after now, flow, body, checksums}, claim {id, holder, seconds and
--   microseconds from now}, drop {id, holder}.
-- Returns MessagePack of {stamp, verdicts}, each verdict one of
--   {0, first revision, untils of the puts or false}, {1, mismatched ids}, {2, missing checksums},
--   {3, ids of delays that cannot be claimed}.
local meta = redis.call('HMGET', prefix .. 'meta', 'head', 'time')
local old_head, stamp = tonumber(meta[1] or ''), tonumber(meta[2] or '')
if not meta[1] then
    corrupt('is gone: emptied, or its server started without its data; open it again')
elseif not old_head or not stamp then
    corrupt('is damaged: its head or its last time is not a number')
end
stamp = math.max(now(), stamp)
local head, shown_head, shown_stamp = old_head, meta[1], text(stamp)
local states, brought, NONE = {}, {}, {}
local delays, revision, texts_in  -- Made when they are needed.

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

-- What refuses a commit: the number of the kind, and a list.
local function refusal(commit)
    local found
    for place = 2, 3 do
        local items = commit[place] or NONE
        for number = 1, #items do
            local id, expected = items[number][1], items[number][2]
            if latest(id).current ~= expected then
                found = found or {}
                found[#found + 1] = id
            end
        end
    end
    if found then
        return 1, found
    end
    local needs = commit[4] or NONE
    local own = needs[1] and {}
    for number = 1, own and commit[5] and #commit[5] or 0 do
        own[commit[5][number][1]] = true
    end
    for number = 1, #needs do
        local sum = needs[number]
        if not own[sum] and not brought[sum]
            and redis.call('EXISTS', prefix .. 'data:' .. sum) == 0 then
            found = found or {}
            found[#found + 1] = sum
        end
    end
    if found then
        return 2, found
    end
    local claims = commit[7] or NONE
    for number = 1, #claims do
        local claim = claims[number]
        delays = delays or delay_changes(states)
        local delay = delays.pending(claim[1])
        if not delay or delay.due > later(0, 0) and delay.holder ~= claim[2] then
            found = found or {}
            found[#found + 1] = claim[1]
        end
    end
    return found and 3, found
end

-- When a state stalls as things are: only what it has since its last put puts that off.
local function stalls_at(state)
    local at, after = state.stalls, state.put and state.put.what[7]
    if not state.put then
        at, after = state.after and state.due, state.after
    end
    local put_off = at and state.postponed and later(0, tonumber(after), state.postponed)
    return put_off and put_off > at and put_off or at
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

local verdicts, first_status = {}, nil
for place, commit in ipairs(cmsgpack.unpack(ARGV[1])) do
    local kind, found = refusal(commit)
    local first, untils = head + 1, false
    local token, puts, _, _, data, new_delays, claims, drops = unpack(kind and NONE or commit)
    puts, data, new_delays = puts or NONE, data or NONE, new_delays or NONE
    claims, drops = claims or NONE, drops or NONE
    delays = delays or (claims[1] or drops[1] or new_delays[1]) and delay_changes(states)
    for number = 1, #claims do
        local id, holder, seconds, micros = unpack(claims[number])
        delays.claim(id, holder, later(seconds, micros))
    end
    for number = 1, #drops do
        delays.drop(drops[number][1], drops[number][2], puts)
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
        local id, _, status, body, labels, sums, after, _, is_forgotten, keeps, kept_until = unpack(put)
        local state, until_ = states[id], untils and untils[number]
        local previous = state.last or state.current
        labels, sums = labels or NONE, sums or NONE
        head = head + 1
        local rev = text(head)
        shown_head = rev
        state.current, state.last = is_forgotten and 0 or head, is_forgotten and head
        local before = keeps and stalls_at(state)
        state.postponed = nil
        if keeps then
            delays = delays or delay_changes(states)
            until_, untils = kept_until, untils or {}
            for other = 1, #puts do
                untils[other] = untils[other] or false
            end
            untils[number] = until_
        else
            state.moved_at = place
        end
        state.put = {rev = rev, place = place, until_ = until_, what = put}
        state.stalls = after and later(0, tonumber(after), until_)
        if before and state.stalls and before < state.stalls then
            state.stalls = before
        end
        if keeps then
            delays.keep(id, head)
        end
        check_stream('log', old_head)
        additions[#additions + 1] = {command = 'XADD', name = 'log', rev .. '-0', 'i', id,
            'p', text(previous), 's', status, 'c', shown_stamp, 'u', until_ or '', 't', token,
            'l', labels[1] and cmsgpack.pack(labels) or '',
            'r', sums[1] and cmsgpack.pack(sums) or '', 'b', body}
        -- Nothing is written when the first stream refuses its entry, so it is not looked at.
        first_status = first_status or status
        local where = beginning
        if status ~= first_status then
            check_stream('status:' .. status, 0)
            where = additions
        end
        where[#where + 1] = {command = 'XADD', name = 'status:' .. status, rev .. '-0', '', ''}
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
        delays.add({id = id, due = due, state = of, rev = rev, flow = flow, holder = '',
            references = sums or NONE, body = body, place = place})
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

for id, state in pairs(states) do
    local new = state.put
    if new then
        local _, _, status, _, labels, _, after, flow, is_forgotten = unpack(new.what)
        labels = not is_forgotten and labels or NONE
        -- Remove what the old revision had as the latest one: labels, heartbeats, and delays.
        if state.status and (is_forgotten or state.status ~= status) then
            collect(removals, 'ZREM', 'latest_status:' .. state.status, id)
        end
        local kept = labels[1] and {} or NONE
        for number = 1, #labels, 2 do
            local name = posting('latest_label', status, labels[number], labels[number + 1])
            collect(additions, 'ZADD', name, new.rev, id)
            kept[name] = true
        end
        if state.labelled then
            if not revision then
                revision, texts_in = entry_reading()
            end
            local entry = revision(state.rev)
            if not entry then
                corrupt('is damaged: revision ' .. text(state.rev) .. ' is not stored')
            end
            local old = texts_in(entry.l)
            for number = 1, #old - 1, 2 do
                local name = posting('latest_label', state.status, old[number], old[number + 1])
                if not kept[name] then
                    collect(removals, 'ZREM', name, id)
                end
            end
        end
        if state.status and size_of('HLEN', 'beats') > 0 then
            collect(removals, 'HDEL', 'beats', id)
        end
        -- A delay can be stored before the first revision.
        if state.status or size_of('HLEN', 'delay_heads') > 0 then
            local own = redis.call('ZRANGE', prefix .. 'delays_of:' .. id, '0', '-1')
            delays = delays or own[1] and delay_changes(states)
            if own[1] and state.moved_at then
                delays.leave_all(id, own)
            elseif own[1] then
                delays.keep_all(own, state.current)
            end
        end
        if is_forgotten then
            collect(additions, 'HSET', 'latest', id, 'forgotten ' .. new.rev)
            if state.kind then
                index_due(removals, state.kind, state.flow, state.due .. id)
            end
        else
            local due = stalls_at(state)
            collect(additions, 'ZADD', 'latest_status:' .. status, new.rev, id)
            set_latest(id, state, new.rev, status, labels[1], after, due, flow)
        end
    elseif state.postponed and state.after then
        -- A state that is delayed without a new revision stalls no earlier than after that delay,
        -- by the rules of the revision that is stored.
        local due = stalls_at(state)
        if due > state.due then
            set_latest(id, state, text(state.rev), state.status, state.labelled, state.after, due,
                state.flow)
        end
    end
end

if delays and delays.finish() then
    size_of('XLEN', 'alarm')
    additions[#additions + 1] = {command = 'XADD', name = 'alarm', 'MAXLEN', '1', '*', '', ''}
end
-- A script that has begun goes on when the memory is full: so it begins with what is refused then,
-- unless it only makes room.
if additions[1] then
    collect(beginning, 'HSET', 'meta', 'head', shown_head)
    collect(beginning, 'HSET', 'meta', 'time', shown_stamp)
end
write()
return cmsgpack.pack({stamp, verdicts})
