-- Claims a key for whoever asks, unless somebody works on it or has answered.
-- KEYS[1]  the entry (hash)
-- KEYS[2]  its answer's parts (list)
-- ARGV     fingerprint, owner, lease in ms, life of the entry in ms, request id
-- Result   {stage, request id}; stage: claimed, conflict, running, done, dropped
-- Time is Redis's own. A lease that ended belongs to a worker that died: the next one takes over under the same request
-- id, so that what the dead one was charged is not charged again.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'stage', 'lease_until', 'request_id')
local request_id = ARGV[5]
if known[1] then
  if known[1] ~= ARGV[1] then
    return {'conflict', ''}
  end
  if known[2] ~= 'running' then
    return {known[2], known[4]}
  end
  if tonumber(known[3]) > now_ms then
    return {'running', known[4]}
  end
  request_id = known[4]
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'stage', 'running', 'owner', ARGV[2],
  'lease_until', now_ms + ARGV[3], 'request_id', request_id)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'claimed', request_id}
