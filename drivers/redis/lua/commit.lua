-- Judges a batch of independent commits one after the other, and stores what is not refused.
--
-- ARGV: blobs after the first, which is MessagePack of a list of commits:
--   {token, puts, checks, needs, data, delays}, with put {id, expected revision, status, body, labels {key, value, ...}, checksums,
--   digits of the microseconds after which it stalls or false},
--   check {id, revision}, data {checksum, annotations, place of its blob},
--   delay {id, place of put or false, state id, revision, due or false, seconds and microseconds
--   after now, body}.
-- Returns MessagePack of {stamp, verdicts}, each verdict one of
--   {0, first revision, untils of the puts or false}, {1, mismatched ids}, {2, missing checksums}.
--
-- Nothing is undone when a script fails, so all is judged before the first write, and what is
-- written cannot fail.
local batch = cmsgpack.unpack(ARGV[1])
local meta = redis.call('HMGET', key('meta'), 'head', 'last')
if not meta[1] then
    corrupt('is gone: emptied, or its server started anew without it; open it again')
end
local old_head, stamp = tonumber(meta[1]), math.max(now(), tonumber(meta[2]))
local head = old_head
local known, brought, put_by = {}, {}, {}

local function latest(id)
    if not known[id] then
        known[id] = latest_of(redis.call('HGET', key('latest'), id))
        known[id].current = known[id].rev
    end
    return known[id]
end

local function mismatches(commit)
    local ids = {}
    for _, list in ipairs({commit[2], commit[3]}) do
        for _, item in ipairs(list) do
            if latest(item[1]).current ~= item[2] then
                ids[#ids + 1] = item[1]
            end
        end
    end
    return ids
end

local function missing(commit)
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

local function due_of(delay)
    return delay[5] or later(delay[6], delay[7])
end

local function judge(commit, place)
    local ids = mismatches(commit)
    if #ids > 0 then
        return {1, ids}
    end
    local sums = missing(commit)
    if #sums > 0 then
        return {2, sums}
    end
    for _, data in ipairs(commit[5]) do
        brought[data[1]] = true
    end
    local first, untils = head + 1, false
    for number, put in ipairs(commit[2]) do
        head = head + 1
        local state = latest(put[1])
        state.current, state.put, state.number, put_by[put[1]] = head, put, number, place
    end
    for _, delay in ipairs(commit[6]) do
        if delay[2] then
            if not untils then
                untils = {}
                for number = 1, #commit[2] do untils[number] = false end
            end
            local due = due_of(delay)
            if not untils[delay[2]] or due < untils[delay[2]] then
                untils[delay[2]] = due
            end
        end
    end
    return {0, first, untils}
end

local verdicts = {}
for place, commit in ipairs(batch) do
    verdicts[place] = judge(commit, place)
end

-- What is about to be written to must be what it should be.
local checked = {}

local function check(command, name)
    if not checked[name] then
        checked[name] = redis.call(command, key(name))
    end
    return checked[name]
end

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

local function check_put(put)
    check_stream('log', old_head)
    check_stream('status:' .. put[3], 0)
    check('ZCARD', 'latest_status:' .. put[3])
    for place = 1, #put[5], 2 do
        local name = pair(put[5][place], put[5][place + 1])
        check('ZCARD', 'label:' .. name)
        check('ZCARD', 'latest_label:' .. name)
    end
    for _, sum in ipairs(put[6]) do
        check('HLEN', 'data:' .. sum)
        check('ZCARD', 'orphans')
    end
end

-- The old labels and delays of a state that goes on.
local function check_old(id, state)
    state.labels, state.delays = {}, {}
    if state.status then
        check('ZCARD', 'latest_status:' .. state.status)
        state.beats = check('HLEN', 'beats') > 0
    end
    if state.after and not state.put[7] then
        check('ZCARD', 'stalls')
    end
    if state.labelled then
        local entry = revision(state.rev)
        if not entry then
            corrupt('is damaged: revision ' .. text(state.rev) .. ' is not stored')
        end
        state.labels = cmsgpack.unpack(entry.l)
        for place = 1, #state.labels, 2 do
            check('ZCARD', 'latest_label:' .. pair(state.labels[place], state.labels[place + 1]))
        end
    end
    local ids = redis.call('HGET', key('delays_of'), id)
    for _, delay in ipairs(ids and cmsgpack.unpack(ids) or {}) do
        local value = redis.call('HGET', key('delays'), delay)
        check('ZCARD', 'due')
        state.delays[#state.delays + 1] = {delay, value and cmsgpack.unpack(value)[1] .. delay}
    end
end

local function check_commit(commit)
    for _, put in ipairs(commit[2]) do
        check_put(put)
    end
    for _, data in ipairs(commit[5]) do
        check('HLEN', 'data:' .. data[1])
        check('ZCARD', 'orphans')
    end
    for _, delay in ipairs(commit[6]) do
        local ids = redis.call('HGET', key('delays_of'), delay[3])
        if ids then
            cmsgpack.unpack(ids)
        end
        check('HLEN', 'delays')
        check('ZCARD', 'due')
        check('XLEN', 'alarm')
        if not delay[2] then
            check('HLEN', 'latest')
            check('ZCARD', 'stalls')
        end
    end
end

for place, commit in ipairs(batch) do
    if verdicts[place][1] == 0 then
        check_commit(commit)
    end
end
for id, state in pairs(known) do
    if state.put then
        check_old(id, state)
    end
end

-- From here on it writes.
local function refer(sums)
    for _, sum in ipairs(sums) do
        redis.call('HINCRBY', key('data:' .. sum), 'references', 1)
        redis.call('ZREM', key('orphans'), sum)
    end
end

local function store_put(commit, put, rev, until_)
    local labels = put[5]
    redis.call('XADD', key('log'), entry_id(rev), 'i', put[1], 'p', text(put[2]), 's', put[3],
        'c', text(stamp), 'u', until_ or '', 't', commit[1],
        'l', #labels > 0 and cmsgpack.pack(labels) or '',
        'r', #put[6] > 0 and cmsgpack.pack(put[6]) or '', 'b', put[4])
    redis.call('XADD', key('status:' .. put[3]), entry_id(rev), '', '')
    for place = 1, #labels, 2 do
        local name = 'label:' .. pair(labels[place], labels[place + 1])
        redis.call('ZADD', key(name), text(rev), text(rev))
    end
    refer(put[6])
end

local function store_data(data)
    local sum = key('data:' .. data[1])
    redis.call('HSET', sum, 'annotations', data[2], 'blob', ARGV[1 + data[3]], 'stored_at', text(head))
    if redis.call('HSETNX', sum, 'references', '0') == 1
        or redis.call('HGET', sum, 'references') == '0' then
        redis.call('ZADD', key('orphans'), text(head), data[1])
    end
end

local function drop_delays(id, state)
    for _, delay in ipairs(state.delays) do
        redis.call('HDEL', key('delays'), delay[1])
        if delay[2] then
            redis.call('ZREM', key('due'), delay[2])
        end
    end
    if #state.delays > 0 then
        redis.call('HDEL', key('delays_of'), id)
    end
end

-- A state that is delayed without a new revision stalls no earlier than after that delay, by the
-- rules of the revision that is stored. What never stalls has no score, and gets none.
local function postpone(id, rev, due)
    local state = latest_of(redis.call('HGET', key('latest'), id))
    if state.rev == rev and state.after then
        redis.call('ZADD', key('stalls'), 'XX', 'GT', score_of(micros_of(due) + state.after), id)
    end
end

local function store_delay(delay, place, first)
    -- A later commit of the batch has outdated it already.
    if (put_by[delay[3]] or 0) > place or redis.call('HEXISTS', key('delays'), delay[1]) == 1 then
        return
    end
    local due = due_of(delay)
    local rev = delay[2] and first + delay[2] - 1 or delay[4]
    add_delay(delay[1], due, delay[3], rev, delay[8])
    local ids = redis.call('HGET', key('delays_of'), delay[3])
    ids = ids and cmsgpack.unpack(ids) or {}
    ids[#ids + 1] = delay[1]
    redis.call('HSET', key('delays_of'), delay[3], cmsgpack.pack(ids))
    if not delay[2] then
        postpone(delay[3], rev, due)
    end
end

local function move_labels(id, state)
    for place = 1, #state.labels, 2 do
        local name = 'latest_label:' .. pair(state.labels[place], state.labels[place + 1])
        redis.call('ZREM', key(name), id)
    end
    local labels = state.put[5]
    for place = 1, #labels, 2 do
        local name = 'latest_label:' .. pair(labels[place], labels[place + 1])
        redis.call('ZADD', key(name), text(state.current), id)
    end
end

local function move_latest(id, state)
    local status = state.put[3]
    local labelled = #state.put[5] > 0 and '1' or '0'
    local after = state.put[7] and ' ' .. state.put[7] or ''
    redis.call('HSET', key('latest'), id,
        text(state.current) .. ' ' .. status .. ' ' .. labelled .. after)
    if state.status and state.status ~= status then
        redis.call('ZREM', key('latest_status:' .. state.status), id)
    end
    redis.call('ZADD', key('latest_status:' .. status), text(state.current), id)
    move_labels(id, state)
end

-- When the last put of each state stalls. That is written first: if it cannot be, nothing has been.
local stalls, never, outdated = {}, {}, {}
for id, state in pairs(known) do
    local after = state.put and state.put[7]
    if after then
        local untils = verdicts[put_by[id]][3]
        local until_ = untils and untils[state.number]
        stalls[#stalls + 1] = score_of((until_ and micros_of(until_) or stamp) + after)
        stalls[#stalls + 1] = id
    elseif state.put and state.after then
        never[#never + 1] = id
    end
    if state.put and state.beats then
        outdated[#outdated + 1] = id
    end
end
call_with('ZADD', 'stalls', stalls)
for id, state in pairs(known) do
    if state.put then
        drop_delays(id, state)
        move_latest(id, state)
    end
end
-- Heartbeats were for what has been replaced.
call_with('ZREM', 'stalls', never)
call_with('HDEL', 'beats', outdated)
local alarm = false
for place, commit in ipairs(batch) do
    local verdict = verdicts[place]
    if verdict[1] == 0 then
        for number, put in ipairs(commit[2]) do
            store_put(commit, put, verdict[2] + number - 1, verdict[3] and verdict[3][number])
        end
        for _, data in ipairs(commit[5]) do
            store_data(data)
        end
        for _, delay in ipairs(commit[6]) do
            store_delay(delay, place, verdict[2])
            alarm = true
        end
    end
end
if head > old_head then
    redis.call('HSET', key('meta'), 'head', text(head), 'last', text(stamp))
end
if alarm then
    redis.call('XADD', key('alarm'), 'MAXLEN', '1', '*', '', '')
end
return cmsgpack.pack({stamp, verdicts})
