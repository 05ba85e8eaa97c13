-- Makes a namespace a store, unless it is one. ARGV: version, store id, for an empty one.
-- Returns {version, store id}.
if redis.call('EXISTS', prefix .. 'meta') == 0 then
    if redis.call('EXISTS', prefix .. 'log', prefix .. 'latest') > 0 then
        corrupt('is damaged: the key meta is missing')
    end
    redis.call('HSET', prefix .. 'meta', 'version', ARGV[1], 'store_id', ARGV[2],
        'head', '0', 'time', '0', 'floor', '1')
end
return redis.call('HMGET', prefix .. 'meta', 'version', 'store_id')
