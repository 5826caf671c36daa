-- Reserved capacity of one organisation and model: a bucket of tokens that fills at its capacity units a second.
-- KEYS[1]  reserved:{organisation}:model (hash: level, at_ms)
-- ARGV     capacity units (tokens a second), tokens that the bucket holds, tokens wanted (below 0: given back)
-- Result   {tokens granted, milliseconds until there are some again}
-- Time is Redis's own. A bucket that nobody knows is full.
local units, size, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'level', 'at_ms')
local level = size
if known[1] then
  level = math.min(size, tonumber(known[1]) + math.max(0, now_ms - tonumber(known[2])) * units / 1000)
end
local granted = math.floor(math.min(wanted, level))
if wanted > 0 and granted < 1 then
  granted = 0
end
level = math.min(size, level - granted)
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at_ms', now_ms)
redis.call('PEXPIRE', KEYS[1], math.ceil(size / units * 1000) + 60000)
local wait_ms = 0
if granted == 0 then
  wait_ms = math.ceil((1 - level) / units * 1000)
end
return {granted, wait_ms}
