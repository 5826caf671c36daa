-- Reads an answer as far as it is there, and asks its worker for more while it runs.
-- KEYS[1]  the entry (hash)
-- KEYS[2]  its answer's parts (list)
-- ARGV     the first part wanted (0 is the first), parts wanted at most
-- Result   {stage, owner, head (sealed) or '', parts...}; stage: running, done, dropped; absent: not there, or its worker
--          died. Parts of two owners do not belong together.
local known = redis.call('HMGET', KEYS[1], 'stage', 'lease_until', 'head', 'owner')
if not known[1] then
  return {'absent', '', ''}
end
if known[1] == 'running' then
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  if tonumber(known[2]) <= now_ms then
    return {'absent', '', ''}
  end
  redis.call('HSET', KEYS[1], 'wanted', '1')
end
local parts = redis.call('LRANGE', KEYS[2], ARGV[1], ARGV[1] + ARGV[2] - 1)
return {known[1], known[4], known[3] or '', unpack(parts)}
