-- Returns the head.
return redis.call('HGET', key('meta'), 'head')
