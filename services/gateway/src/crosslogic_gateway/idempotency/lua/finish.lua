-- Ends a claim: the answer is complete, or was too large, or nothing came of it.
-- KEYS[1]  the entry (hash)
-- KEYS[2]  its answer's parts (list)
-- ARGV     owner, stage (done, dropped, absent), life of the answer in ms, fingerprint, request id,
--          parts there must be so far, head (sealed; empty: none), parts...
-- Result   1: it stands; 0: another worker has the claim
-- An entry that Redis forgot meanwhile is written anew.
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'absent' then
  redis.call('DEL', KEYS[1], KEYS[2])
  return 1
end
if ARGV[2] == 'dropped' then
  redis.call('DEL', KEYS[2])
elseif redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[6]) then
  return 0
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[4], 'stage', ARGV[2], 'owner', ARGV[1], 'request_id', ARGV[5],
  'head', ARGV[7])
redis.call('HDEL', KEYS[1], 'wanted', 'lease_until')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if #ARGV > 7 then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 8))
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
