-- ARGV: checksum. Returns {blob, annotations}.
return redis.call('HMGET', prefix .. 'data:' .. ARGV[1], 'blob', 'annotations')
