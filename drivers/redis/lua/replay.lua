-- ARGV: first revision, how many, token. Returns MessagePack of the stored revisions of a commit.
local found = {}
for rev = tonumber(ARGV[1]), tonumber(ARGV[1]) + tonumber(ARGV[2]) - 1 do
    local entry = revision(rev)
    if entry and entry.t == ARGV[3] then
        found[#found + 1] = stored(entry)
    end
end
return cmsgpack.pack(found)
