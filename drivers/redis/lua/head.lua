-- Returns the head; 0 when the store is gone.
return redis.call('HGET', key('meta'), 'head') or '0'
