-- A page of stalled states. ARGV: score and id to go on after, or ''; limit.
-- Returns {now, score of the first one after the page or '', whether that one has stalled, states},
--   each state {id, score, revision, entry}, the entry {id, committed at, delayed until, body} or
--   empty if it is not in the log.
local at, limit = text(now()), tonumber(ARGV[3])
local stalls = key('stalls')

-- Whether a text comes behind another in the order of bytes; < would go by the server's locale.
local function is_behind(one, other)
    for place = 1, math.min(#one, #other) do
        local left, right = string.byte(one, place), string.byte(other, place)
        if left ~= right then
            return left > right
        end
    end
    return #one > #other
end

-- How many come up to a score and an id, which may be gone. Many may have the same score.
local function rank_behind(score, id)
    local low = redis.call('ZCOUNT', stalls, '-inf', '(' .. score)
    local high = low + redis.call('ZCOUNT', stalls, score, score)
    while low < high do
        local middle = math.floor((low + high) / 2)
        if is_behind(redis.call('ZRANGE', stalls, text(middle), text(middle))[1], id) then
            high = middle
        else
            low = middle + 1
        end
    end
    return low
end

local function entry_of(rev)
    local entry = rev > 0 and revision(rev)
    return entry and {entry.i or '', entry.c or '', entry.u or '', entry.b or ''} or {}
end

local first = ARGV[1] == '' and 0 or rank_behind(ARGV[1], ARGV[2])
local due = redis.call('ZCOUNT', stalls, '-inf', at)
local count = math.max(math.min(due - first, limit), 0)
local found = redis.call('ZRANGE', stalls, text(first), text(first + count), 'WITHSCORES')
local states = {}
for place = 1, count do
    local id = found[2 * place - 1]
    local rev = latest_of(redis.call('HGET', key('latest'), id)).rev or 0
    states[place] = {id, found[2 * place], text(rev), entry_of(rev)}
end
return {at, found[2 * count + 2] or '', due > first + count and 1 or 0, states}
