-- ARGV: ids. Returns MessagePack of {now, those of the ids that are delays}.
local found = {}
for _, id in ipairs(ARGV) do
    if redis.call('HEXISTS', prefix .. 'delay_heads', id) == 1 then
        found[#found + 1] = id
    end
end
return cmsgpack.pack({now(), found})
