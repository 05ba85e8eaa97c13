-- ARGV: checksum. Returns {blob, annotations}.
return redis.call('HMGET', key('data:' .. ARGV[1]), 'blob', 'annotations')
