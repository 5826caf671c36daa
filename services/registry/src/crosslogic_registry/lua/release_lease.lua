-- Ends a node's lease if nobody has written it anew.
-- KEYS[1]: registry:node:{id}. ARGV[1]: the lease as the caller wrote it.
-- Result: 1 when it was ended, 0 when it had ended or is another replica's by now.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
