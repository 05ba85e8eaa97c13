-- ARGV: id, and a revision or ''. Returns MessagePack of a stored revision, or false.
local rev = tonumber(ARGV[2]) or latest_of(redis.call('HGET', key('latest'), ARGV[1])).rev
local entry = rev > 0 and revision(rev)
return cmsgpack.pack(entry and entry.i == ARGV[1] and stored(entry))
