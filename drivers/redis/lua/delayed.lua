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
    local due, id = string.sub(members[place], 1, 18), string.sub(members[place], 19)
    -- What is damaged must not hold up the others.
    local whole, value = pcall(cmsgpack.unpack, redis.call('HGET', key('delays'), id) or '')
    value = whole and type(value) == 'table' and value or {}
    local rev = type(value[3]) == 'number' and value[3] or 0
    local entry = rev > 0 and rev < 2 ^ 53 and revision(rev)
    delays[place] = {id, due, value[2] or '', rev, value[4] or '', entry and stored(entry) or false}
end
local next_member = members[limit + 1] or redis.call(
    'ZRANGEBYLEX', key('due'), '(' .. last .. '\255', '+', 'LIMIT', '0', '1')[1]
local next_due = next_member and string.sub(next_member, 1, 18)
return cmsgpack.pack({at, #members > limit, next_due or false, delays})
