-- Put in front of the scripts that write, after common.lua. All that will be written is collected
-- first, and each key is looked at: nothing is undone when a script fails, so what is written must
-- be sure to succeed. Removals come before additions, so that what is moved to its own place stays.
local beginning, removals, additions = {}, {}, {}
local sizes, flows, references = {}, {}, {}
local SIZE = {ZADD = 'ZCARD', ZREM = 'ZCARD', HSET = 'HLEN', HDEL = 'HLEN', XDEL = 'XLEN'}

-- How many members a key has. Fails when it is of another type.
local function size_of(command, name)
    local size = sizes[name]
    if not size then
        size = redis.call(command, prefix .. name)
        sizes[name] = size
    end
    return size
end

-- Add to what one command will do to a key: in few calls, because a call costs more than what it
-- does.
local function collect(where, command, name, one, other)
    local list = where[name]
    if list then
        list[#list + 1] = one
        list[#list + 1] = other
    else
        size_of(SIZE[command], name)
        list = {one, other, command = command, name = name}
        where[name] = list
        where[#where + 1] = list
    end
end

-- What is due: sorted sets of time and id for each flow, all of score 0: in the order of bytes.
local function index_due(where, kind, flow, member)
    local name = 'due:' .. kind .. ':' .. flow
    if where == removals then
        collect(where, 'ZREM', name, member)
    else
        collect(where, 'ZADD', name, '0', member)
    end
    -- It may become the first of its flow, or have been the last one.
    if not flows[name] and sizes[name] <= (removals[name] and #removals[name] or 0) then
        flows[name] = {kind, flow}
    end
end

-- The latest revision of a state, in place of an old one: see latest_of.
local function set_latest(id, old, rev, status, labelled, after, due, flow)
    local value, kind = rev .. ' ' .. status .. (labelled and ' 1' or ' 0'), false
    if after then
        kind, value = 'stall', value .. ' ' .. after .. ' ' .. due .. ' ' .. flow
    elseif status ~= 'ended' then
        kind, value, due = 'idle', value .. '   ' .. flow, NO_TIME
    end
    collect(additions, 'HSET', 'latest', id, value)
    if kind ~= old.kind or due ~= old.due or flow ~= old.flow then
        if kind then
            index_due(additions, kind, flow, due .. id)
        end
        if old.kind then
            index_due(removals, old.kind, old.flow, old.due .. id)
        end
    end
end

-- By how much the number of references to data will change.
local function refer(sums, by)
    for place = 1, #sums do
        local sum = sums[place]
        if type(sum) == 'string' then
            size_of('HLEN', 'data:' .. sum)
            size_of('ZCARD', 'orphans')
            references[sum] = (references[sum] or 0) + by
        end
    end
end

local function write()
    for name, about in pairs(flows) do
        if additions[name] and sizes[name] > 0 then
            flows[name] = nil
        else
            size_of('ZCARD', 'flows:' .. about[1])
        end
    end
    for _, where in ipairs({beginning, removals, additions}) do
        for _, list in ipairs(where) do
            -- Lua cannot give a command more than some thousands of arguments.
            for first = 1, #list, 1000 do
                redis.call(list.command, prefix .. list.name,
                    unpack(list, first, math.min(first + 999, #list)))
            end
        end
    end
    for name, about in pairs(flows) do
        if additions[name] then
            redis.call('ZADD', prefix .. 'flows:' .. about[1], '0', about[2])
        elseif redis.call('EXISTS', prefix .. name) == 0 then
            redis.call('ZREM', prefix .. 'flows:' .. about[1], about[2])
        end
    end
    for sum, by in pairs(references) do
        local data, orphans = prefix .. 'data:' .. sum, prefix .. 'orphans'
        if redis.call('HINCRBY', data, 'references', text(by)) > 0 then
            redis.call('ZREM', orphans, sum)
        else
            redis.call('ZADD', orphans, redis.call('HGET', data, 'stored_at') or '0', sum)
        end
    end
end
