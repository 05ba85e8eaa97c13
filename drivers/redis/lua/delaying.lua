-- What a batch of commits does to delays and timers: a timer is a delay with the revision -1, which
-- no put removes.
local function delay_changes(states)
    local delay_of, place_of = delay_reading()
    local delays, damaged = {}, {}

    -- Whether a delay has a state of its own, as one that was stored by itself.
    local function has_state(delay)
        if delay.has_state == nil then
            local text = delay.body or redis.call('HGET', prefix .. 'delay_bodies', delay.id)
            local whole, body = pcall(cjson.decode, text or '')
            delay.has_state = whole and type(body) == 'table' and body.state ~= nil
        end
        return delay.has_state
    end

    -- Whether a put of the batch has dropped a delay; no put keeps one that has its own state.
    local function is_gone(delay)
        local state = states[delay.state]
        if delay.rev == -1 or not state or not state.put then
            return false
        end
        local place = state.moved_at or -1
        if state.put.place > place and delay.place < state.put.place and has_state(delay) then
            place = state.put.place
        end
        return place > delay.place
    end

    -- A delay as it is when the commit at a place comes, or nothing.
    local function pending(id)
        local delay = delays[id]
        if delay == nil then
            local was = delay_of(id)
            delay = was and {id = id, state = was.state, rev = was.rev, flow = was.flow,
                due = was.due, holder = was.holder, references = was.references, place = 0,
                was = was} or false
            delays[id], damaged[id] = delay, was == nil
        end
        return delay and not delay.dropped and not is_gone(delay) and delay
    end

    -- A timer whose head is damaged, as far as the timers of its state tell.
    local function damaged_timer(id, state)
        local members = damaged[id] and redis.call('ZRANGE', prefix .. 'timers_of:' .. state, 0, -1)
        for _, member in ipairs(members or {}) do
            local timer = place_of(member)
            if timer.id == id then
                timer.state, timer.rev, timer.references = state, -1, {}
                return timer
            end
        end
    end

    local function claim(id, holder, due)
        local delay = pending(id)
        delay.due, delay.holder, delay.moved = due, holder, true
    end

    -- Drop what a holder has; of what is damaged no holder is known, but its state is put.
    local function drop(id, holder, puts)
        local delay = pending(id)
        if delay and delay.holder == holder then
            delay.dropped = true
        end
        for number = 1, damaged[id] and #puts or 0 do
            local was = damaged_timer(id, puts[number][1])
            if was then
                delays[id] = {state = was.state, rev = -1, was = was, dropped = true}
            end
        end
    end

    -- A delay that is there already was stored by an earlier attempt of the same commit; a timer
    -- takes the place of another one.
    local function add(new)
        if not pending(new.id) or new.rev == -1 then
            local old = delays[new.id]
            new.was = old and old.was or damaged_timer(new.id, new.state)
            delays[new.id], damaged[new.id] = new, nil
        end
    end

    -- The set with those of a state, and the member there.
    local function place_in_state(delay)
        return (delay.rev == -1 and 'timers_of:' or 'delays_of:') .. delay.state,
            delay.due .. #delay.flow .. ':' .. delay.flow .. delay.id
    end

    local function store(delay)
        local name, member = place_in_state(delay)
        collect(additions, 'HSET', 'delay_heads', delay.id, cmsgpack.pack(
            {delay.due, delay.state, delay.rev, delay.flow, delay.holder, delay.references}))
        collect(additions, 'ZADD', name, '0', member)
        index_due(additions, 'delay', delay.flow, delay.due .. delay.id)
    end

    -- A delay leaves its place, for another one or for ever.
    local function leave(was, is_moved)
        local name, member = place_in_state(was)
        collect(removals, 'ZREM', name, member)
        index_due(removals, 'delay', was.flow, was.due .. was.id)
        if not is_moved then
            refer(was.references, -1)
            collect(removals, 'HDEL', 'delay_heads', was.id)
            collect(removals, 'HDEL', 'delay_bodies', was.id)
        end
    end

    -- What is at places of delays of a state leaves with its revision.
    local function leave_all(state, members)
        for _, member in ipairs(members) do
            local was = place_of(member)
            local delay = delay_of(was.id)
            was.state, was.references = state, delay and delay.references or {}
            leave(was)
        end
    end

    -- Let the delays of a state that are known here belong to its next revision.
    local function keep(state, rev)
        for _, delay in pairs(delays) do
            if delay and delay.state == state and delay.rev ~= -1 and not is_gone(delay) then
                delay.rev, delay.moved = rev, true
            end
        end
    end

    -- Let what is at places of delays of a state belong to its next revision.
    local function keep_all(members, rev)
        for _, member in ipairs(members) do
            local id = place_of(member).id
            local delay = pending(id)
            if delay then
                delay.rev, delay.moved = rev, true
            elseif delays[id] and not delays[id].dropped then
                leave(delays[id].was)
            end
        end
    end

    -- Collect what is to be written; return whether there is news.
    local function finish()
        local is_news = false
        for id, delay in pairs(delays) do
            if delay and not is_gone(delay) and (delay.body or delay.moved or delay.dropped) then
                if delay.was then
                    leave(delay.was, not delay.dropped)
                end
                if not delay.dropped then
                    store(delay)
                    is_news = is_news or delay.body or delay.due <= later(0, 0)
                    if delay.body then
                        collect(additions, 'HSET', 'delay_bodies', id, delay.body)
                        refer(delay.references, 1)
                    end
                end
            end
        end
        return is_news
    end

    return {pending = pending, claim = claim, drop = drop, add = add, store = store,
        leave_all = leave_all, keep = keep, keep_all = keep_all, finish = finish}
end
