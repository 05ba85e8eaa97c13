-- Put in front of the scripts that only read, after common.lua.

-- What a driver makes a state from: revision, id, when it was committed, until when it is delayed,
-- body. Only the revision, and what else is known of it, when it is not stored.
local function stored(rev, id)
    local entry = rev and revision(rev)
    if not entry then
        return {rev or false, id or ''}
    end
    return {rev, entry.i or '', entry.c or '', entry.u or '', entry.b or ''}
end

-- The last heartbeat for a state: its revision, when it came, and the note.
local function beat_of(value)
    local rev, at, note = string.match(value or '', '^(%d+) (%d+) (.*)$')
    return tonumber(rev), tonumber(at), note
end
