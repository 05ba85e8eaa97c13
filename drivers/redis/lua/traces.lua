-- Looks for commits, backwards from each state's last revision.
-- ARGV[1]: MessagePack of a list of {id, revision that the commit replaced, token, how many
-- revisions it has, from which one to go on or false}; ARGV[2]: at most how many steps for each.
-- Returns MessagePack of a list: for each the stored revisions of the commit; a number to go on
-- from; true if it cannot be told any more; false if it was not committed.
local steps = tonumber(ARGV[2])
local floor = tonumber(redis.call('HGET', prefix .. 'meta', 'floor') or '1') or 1

local function of_commit(first, count, token)
    local found = {}
    for rev = first, first + count - 1 do
        local entry = revision(rev)
        if entry and entry.t == token then
            found[#found + 1] = stored(rev)
        end
    end
    return found
end

local function trace(id, expected, token, count, rev)
    if not rev then
        local state = latest_of(redis.call('HGET', prefix .. 'latest', id))
        rev = state.last or state.rev or 0
        if rev == 0 then
            -- What is not there any more may have been forgotten, and compacted.
            return expected > 0 and expected < floor
        end
    end
    for _ = 1, steps do
        local entry = rev > expected and revision(rev)
        if not entry then
            return rev > expected
        end
        local previous = tonumber(entry.p) or 0
        -- What was forgotten before may stand in front of one that expected none.
        if entry.t == token and (previous == expected or expected == 0) then
            return of_commit(rev, count, token)
        end
        rev = previous
    end
    return rev
end

local found = {}
for place, asked in ipairs(cmsgpack.unpack(ARGV[1])) do
    found[place] = trace(unpack(asked))
end
return cmsgpack.pack(found)
