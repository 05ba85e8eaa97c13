-- ARGV: id, and a revision or ''. Returns MessagePack of a stored revision, or false.
local rev = tonumber(ARGV[2])
if not rev then
    rev = latest_of(redis.call('HGET', prefix .. 'latest', ARGV[1])).rev
    if not rev then
        corrupt('is damaged: the latest revision of a state is unknown')
    end
    return cmsgpack.pack(rev > 0 and stored(rev, ARGV[1]))
end
local entry = rev > 0 and rev < 2 ^ 53 and stored(rev)
return cmsgpack.pack(entry and entry[2] == ARGV[1] and entry)
