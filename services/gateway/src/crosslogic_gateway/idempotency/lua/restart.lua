-- Throws the parts written so far away: a write failed half-way, and nobody knows what lies there.
-- KEYS[1]  the entry (hash)
-- KEYS[2]  its answer's parts (list)
-- ARGV     owner, the name under which the owner goes on
-- Result   1: done; 0: another worker has the claim, or Redis forgot it
-- The new name tells whoever read the old parts that they do not belong to the new ones.
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner ~= ARGV[1] and owner ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
