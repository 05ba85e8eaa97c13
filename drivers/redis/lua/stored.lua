-- Put in front of the scripts that answer with revisions.
local revision, texts_in, fields = entry_reading()

-- What a driver makes a state from: revision, id, when it was committed, until when it is delayed,
-- body. Only the revision, and what else is known of it, when it is not stored.
local function stored(rev, id)
    local entry = rev and revision(rev)
    if not entry then
        return {rev or false, id or ''}
    end
    return {rev, entry.i or '', entry.c or '', entry.u or '', entry.b or ''}
end

-- A store that is gone is empty, and a reader that has seen more of it hears that it was rewound.
local function head_and_floor()
    local meta = redis.call('HMGET', prefix .. 'meta', 'head', 'floor')
    local head, floor = tonumber(meta[1] or '0'), tonumber(meta[2] or '1')
    if not head or not floor then
        corrupt('is damaged: its head or its floor is not a number')
    end
    return head, floor
end
