-- A page of delays. ARGV: last time or '' for now, time and id to go on after or '', limit.
-- Returns MessagePack of {now, whether there is more, when the next one is due or false, delays},
--   each delay {id, due, state id, revision, body, stored revision or false}.
local at = later(0, 0)
local last = ARGV[1] == '' and at or ARGV[1]
local first = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local limit = tonumber(ARGV[3])
-- Behind every id at that time: no digit follows the last one, and ':' comes after '9'.
local members = redis.call(
    'ZRANGEBYLEX', key('due'), first, '[' .. last .. '\255', 'LIMIT', '0', text(limit + 1))
local delays = {}
for place = 1, math.min(#members, limit) do
    local id = string.sub(members[place], 19)
    local due, state_id, rev, body = unpack(cmsgpack.unpack(redis.call('HGET', key('delays'), id)))
    local entry = rev > 0 and revision(rev)
    delays[place] = {id, due, state_id, rev, body, entry and stored(entry)}
end
local next_member = members[limit + 1] or redis.call(
    'ZRANGEBYLEX', key('due'), '(' .. last .. '\255', '+', 'LIMIT', '0', '1')[1]
local next_due = next_member and string.sub(next_member, 1, 18)
return cmsgpack.pack({at, #members > limit, next_due or false, delays})
