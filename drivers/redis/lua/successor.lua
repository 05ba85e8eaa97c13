-- Looks for the revisions that took the place of others, backwards from each state's latest.
-- ARGV[1]: MessagePack of a list of {id, the other revision, from which one to go on or false};
-- ARGV[2]: at most how many steps for each.
-- Returns MessagePack of a list: for each {revision, token} at the end, {revision} to go on from,
-- {false} if that cannot be told any more, or {} if there is none.
local steps = tonumber(ARGV[2])

-- Of a state that changes often it is right behind. Only a few, because they come with all they hold.
local function near(id, expected)
    local found = redis.call('XRANGE', key('log'), entry_id(expected + 1), '+', 'COUNT', '8')
    for _, each in ipairs(found) do
        local entry = fields(each)
        if entry.i == id then
            return tonumber(entry.p) == expected and {entry.rev, entry.t} or {false}
        end
    end
end

local function successor(id, expected, rev)
    local found = not rev and near(id, expected)
    if found then
        return found
    end
    rev = rev or latest_of(redis.call('HGET', key('latest'), id)).rev
    for _ = 1, steps do
        local entry = rev > expected and revision(rev)
        if not entry then
            return rev > expected and {false} or {}
        end
        local previous = tonumber(entry.p)
        if previous == expected then
            return {rev, entry.t}
        end
        rev = previous
    end
    return {rev}
end

local found = {}
for place, asked in ipairs(cmsgpack.unpack(ARGV[1])) do
    found[place] = successor(unpack(asked))
end
return cmsgpack.pack(found)
