-- Makes a namespace a store, unless it is one. ARGV: version, store id, for an empty one.
-- Returns {version, store id}.
if redis.call('EXISTS', key('meta')) == 0 then
    if redis.call('EXISTS', key('log'), key('latest')) > 0 then
        corrupt('is damaged: the key meta is missing')
    end
    redis.call('HSET', key('meta'), 'version', ARGV[1], 'store_id', ARGV[2],
        'head', '0', 'stamp', '0', 'floor', '1')
end
return redis.call('HMGET', key('meta'), 'version', 'store_id')
