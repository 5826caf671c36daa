-- Keeps a claim alive and adds parts of the answer.
-- KEYS[1]  the entry (hash)
-- KEYS[2]  its answer's parts (list)
-- ARGV     owner, lease in ms, life of the entry in ms, parts there must be so far, head (sealed; empty: none), parts...
-- Result   -1: the claim is lost (another worker has it, or Redis forgot); 0: nobody waits for parts; 1: somebody does
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return -1
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lease_until', now_ms + ARGV[2])
if #ARGV > 5 then
  if redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[4]) then
    return -1
  end
  redis.call('HSET', KEYS[1], 'head', ARGV[5])
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 6))
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return tonumber(redis.call('HGET', KEYS[1], 'wanted') or '0')
