-- A batch of one organisation's admissions and settlements, all in one step: docs/adr/0013.
--
-- KEYS[1]  admission:{tag}, a sorted set: worker -> end of its lease, milliseconds of Redis' clock. Every other key has the
--          same hash tag, and so lies in the same slot of a Redis Cluster:
--            ratelimit:{tag}:<layer>:<id>:<second|minute>            requests in a sliding window, a hash (see `window`)
--            tokens:{tag}:<layer>:<id>:<second|minute|hour|day>      tokens in a sliding window, a hash
--            concurrency:{tag}:<layer>:<id>                          requests under way, a number
--            budget:{tag}:<budget>:<YYYY-MM or YYYY-MM-DD>           nano-dollars spent and held, a number
--            held:budget:...                                         held before it was known what is spent, a number
--            settled:budget:...:<stretch>                            cost then, in one stretch of LATE_S, a number
--            tickets:{tag}:<worker>                                  what that worker's requests hold, a hash
--            reaped:{tag}                                            tickets of workers whose lease ended, a hash
--            seeded:{tag}                                            the counters here are not those of an empty Redis
-- ARGV[1]  msgpack [worker, lease_ms, kinds]; a kind is [prefix, unit, window_us, buckets, what]; what 0: requests, 1: tokens
-- ARGV[2]  msgpack, specs: [key_id, environment_id, limits of the key, of the environment, of the org, budgets]; limits are
--          one number a kind and the concurrency, -1: none; a budget is [name, day|month, limit in nano-dollars]
-- ARGV[3]  msgpack, operations; specs are counted from 0; times are microseconds of Redis' clock
--            admit   [1, ticket, spec, prompt_tokens, completion_tokens, cost, forced]
--                     -> -1 - spec, or [0, layer, kind, limit, total, retry_after_us], or [2] (not seeded), or
--                        [3, layer, kind, limit] (larger than the limit), or [4, budget, limit, used]; forced: false, true (it
--                        was let in already, whatever is used) or 2 (a worker let it in by its share: what is known here
--                        decides, and what is not does not; of what is not seeded only its money is held)
--            settle  [2, ticket, prompt_tokens, completion_tokens, cost] -> 1, or 0: no such ticket
--            renew   [3] -> [worker, ...], those with a lease here
--            charge  [4, spec, requests, tokens, cost] -> 1, or 0: not seeded
--            take    [5, spec, requests, tokens] -> [requests, tokens, now, microseconds until there is any of what there was none]
--            give    [6, spec, requests, tokens, taken_at] -> 1
--            seed    [7, [[layer, id, kind, age_us, amount], ...], [[key, nano-dollars], ...]] -> 1, or 0: was seeded
--            reaped  [8, since_us, at most] -> [[ticket, microseconds since its worker was found dead], ...]
-- Result   msgpack [one entry an operation, one entry a spec that was admitted (else 0)]; the latter is
--          [1, now, total of each limited counter in order, then of each budget], as of the end of the batch

local call = redis.call
local pack, unpack_message = cmsgpack.pack, cmsgpack.unpack
local floor = math.floor
local tag = string.match(KEYS[1], '{.-}')
local config = unpack_message(ARGV[1])
local worker, lease_ms, kinds = config[1], config[2], config[3]
local specs = unpack_message(ARGV[2])
local CONCURRENCY = #kinds + 1
local LAYERS = {'key', 'env', 'org'}
local DAY_MS = 86400000

local time = call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = floor(now / 1000)

-- Numbers go to Redis as digits: its own conversion would write large ones as 1e+17.
local function digits(number)
  return string.format('%.0f', number)
end

-- Sliding windows ------------------------------------------------------------------------------------------------------
-- A window is cut into buckets by the time of admission. A bucket counts until all of it is older than the window, so that
-- no stretch of the window's length ever holds more than the limit. Hash: t total, o oldest bucket, l last bucket, one
-- field a bucket; u, w, z: see `oversized`. Loaded once a batch, written once.

local windows = {}
local window_tables = {key = {}, env = {}, org = {}}

local function load_window(layer, id, kind_index)
  local kind = kinds[kind_index]
  local name = kind[1] .. ':' .. tag .. ':' .. layer .. ':' .. id .. ':' .. kind[2]
  local width = kind[3] / kind[4]
  local bucket = floor(now / width)
  local first = bucket - kind[4]
  local bucket_field = digits(bucket)
  local found = call('HMGET', name, 't', 'o', 'l', bucket_field, 'u')
  local w = {bucket_field = bucket_field, name = name, width = width, count = kind[4], bucket = bucket, first = first, total = tonumber(found[1]) or 0,
       oldest = tonumber(found[2]), last = tonumber(found[3]), values = {[bucket] = tonumber(found[4]) or 0}, dirty = {},
       busy_until = tonumber(found[5]) or 0, length = kind[3]}
  w.stored_oldest, w.stored_last = w.oldest, w.last
  windows[name] = w
  if w.last and w.last < first then
    call('DEL', name)
    w.total, w.oldest, w.last, w.values[bucket] = 0, nil, nil, 0
    w.stored_oldest, w.stored_last = nil, nil
  elseif w.oldest and w.oldest < first then
    local fields = {}
    for b = w.oldest, first - 1 do
      fields[#fields + 1] = digits(b)
    end
    for _, value in ipairs(call('HMGET', name, unpack(fields))) do
      w.total = w.total - (tonumber(value) or 0)
    end
    call('HDEL', name, unpack(fields))
    w.total, w.oldest, w.changed = math.max(0, w.total), first, true
  end
  return w
end

local function window(layer, id, kind_index)
  local its = window_tables[layer]
  local of_id = its[id]
  if not of_id then
    of_id = {}
    its[id] = of_id
  end
  local w = of_id[kind_index]
  if not w then
    w = load_window(layer, id, kind_index)
    of_id[kind_index] = w
  end
  return w
end

-- Once for each bucket that a batch changes.
local function touch(w, bucket)
  if not w.values[bucket] then
    w.values[bucket] = tonumber(call('HGET', w.name, digits(bucket)) or 0)
  end
  w.dirty[bucket], w.changed = true, true
  w.last = math.max(w.last or bucket, bucket)
  w.oldest = math.min(w.oldest or bucket, bucket)
end

local function add(w, at, amount)
  local bucket = w.bucket
  if at ~= now then
    local its = floor(at / w.width)
    if its < bucket then
      bucket = its
    end
  end
  if amount == 0 or bucket < w.first then
    return
  end
  if not w.dirty[bucket] then
    touch(w, bucket)
  end
  local values = w.values
  local before = values[bucket]
  local after = before + amount
  if after < 0 then
    after = 0
  end
  values[bucket] = after
  local total = w.total + after - before
  w.total = total < 0 and 0 or total
end

-- When `amount` more will fit, in microseconds from now.
local function fits_in(w, limit, amount)
  if now < w.busy_until then
    return w.busy_until - now
  end
  local missing = w.total + amount - limit
  local fields, buckets = {}, {}
  for b = w.oldest or w.bucket, w.last or w.bucket do
    fields[#fields + 1] = digits(b)
    buckets[#buckets + 1] = b
  end
  local stored = call('HMGET', w.name, unpack(fields))
  for i, b in ipairs(buckets) do
    missing = missing - (w.values[b] or tonumber(stored[i]) or 0)
    if missing <= 0 then
      return (b + w.count + 1) * w.width - now
    end
  end
  return w.length
end

-- A request that has more tokens than a second may have is let in when nothing else is there, and keeps the second busy for
-- as long as it takes at that rate: u until when, w by which ticket, z since when.
local function oversized(w, ticket, amount, limit)
  w.busy_until = now + w.length * amount / limit
  call('HSET', w.name, 'u', digits(w.busy_until), 'w', ticket, 'z', digits(now))
  call('PEXPIRE', w.name, math.ceil((w.busy_until - now) / 1000) + 1000)
end

local function oversized_ended(w, ticket, share)
  if w.busy_until == 0 then
    return false
  end
  local found = call('HMGET', w.name, 'w', 'z', 'u')
  if found[1] ~= ticket then
    return false
  end
  local since = tonumber(found[2])
  w.busy_until = since + (tonumber(found[3]) - since) * share
  call('HSET', w.name, 'u', digits(w.busy_until))
  return true
end

local function write_windows()
  for name, w in pairs(windows) do
    if w.changed then
      local fields = {'t', digits(w.total)}
      for bucket in pairs(w.dirty) do
        fields[#fields + 1] = bucket == w.bucket and w.bucket_field or digits(bucket)
        fields[#fields + 1] = digits(w.values[bucket])
      end
      local moved = w.oldest ~= w.stored_oldest or w.last ~= w.stored_last
      if moved then
        fields[#fields + 1] = 'o'
        fields[#fields + 1] = digits(w.oldest)
        fields[#fields + 1] = 'l'
        fields[#fields + 1] = digits(w.last)
      end
      call('HSET', name, unpack(fields))
      -- Once a bucket is enough: what was set then outlives the bucket's stay in the window.
      if moved then
        call('PEXPIRE', name, math.ceil(math.max(w.length + 2 * w.width, w.busy_until - now) / 1000) + 1)
      end
    end
  end
end

-- Plain numbers: concurrency and budgets ----------------------------------------------------------------------------------

local numbers = {}

local function number(name)
  local n = numbers[name]
  if not n then
    local found = call('GET', name)
    n = {value = tonumber(found or 0), exists = found ~= false}
    numbers[name] = n
  end
  return n
end

local function change(name, amount, keep_ms)
  local n = number(name)
  n.value, n.exists, n.changed, n.keep_ms = math.max(0, n.value + amount), true, true, keep_ms
end

local function write_numbers()
  for name, n in pairs(numbers) do
    if n.changed then
      if n.value == 0 and (n.keep_ms == DAY_MS or string.sub(name, 1, 5) == 'held:') then
        call('DEL', name)
      else
        call('SET', name, digits(n.value), 'PX', n.keep_ms)
      end
    end
  end
end

local function concurrency_name(layer, id)
  return 'concurrency:' .. tag .. ':' .. layer .. ':' .. id
end

-- A spent budget's key outlives its period: a request may settle in the next one.
local BUDGET_KEEP_MS = 40 * DAY_MS

-- The UTC day or month that `now` is in (days to civil date, in the proleptic Gregorian calendar).
local function period_name(period)
  local z = floor(now / 86400000000) + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local day = doy - floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  if period == 'day' then
    return string.format('%04d-%02d-%02d', year, month, day)
  end
  return string.format('%04d-%02d', year, month)
end

local function budget_name(budget)
  return 'budget:' .. tag .. ':' .. budget[1] .. ':' .. period_name(budget[2])
end

-- Money of a request. While it is not known what is spent, it is kept apart and added when that is known.
local function hold(name, cost)
  change(number(name).exists and name or 'held:' .. name, cost, BUDGET_KEEP_MS)
end

-- What was settled while it was not known what is spent: the ledger will tell of it, but may be so many seconds behind.
local LATE_S = 10
local LATE_KEEP_MS = 3 * LATE_S * 1000

local function late_name(name, stretches_ago)
  return 'settled:' .. name .. ':' .. digits(floor(now / (LATE_S * 1000000)) - stretches_ago)
end

local function settle_money(name, held, cost)
  if number(name).exists then
    change(name, cost - held, BUDGET_KEEP_MS)
  else
    change('held:' .. name, -held, BUDGET_KEEP_MS)
    change(late_name(name, 0), cost, LATE_KEEP_MS)
  end
end

-- Specs ----------------------------------------------------------------------------------------------------------------

-- The counters that a spec limits, made once a batch: {layer, kind, limit, window or name of the concurrency}.
local prepared = {}

local function counters_of(index)
  local done = prepared[index]
  if done then
    return done
  end
  local spec = specs[index + 1]
  local org = string.sub(tag, 2, -2)
  done = {counters = {}, budgets = {}, masks = {0, 0, 0}, holds = #spec[6] > 0, key = spec[1], env = spec[2]}
  for layer, id in ipairs({spec[1], spec[2], org}) do
    local bit_value = 1
    for kind = 1, CONCURRENCY do
      local limit = spec[layer + 2][kind]
      if limit >= 0 then
        local counter = {layer = layer, kind = kind, limit = limit}
        if kind == CONCURRENCY then
          counter.name = concurrency_name(LAYERS[layer], id)
        else
          counter.window = window(LAYERS[layer], id, kind)
          counter.tokens, counter.second = kinds[kind][5] == 1, kinds[kind][2] == 'second'
        end
        done.counters[#done.counters + 1] = counter
        done.masks[layer] = done.masks[layer] + bit_value
        done.holds = done.holds or kind == CONCURRENCY or kinds[kind][5] == 1
      end
      bit_value = bit_value * 2
    end
  end
  for i, budget in ipairs(spec[6]) do
    done.budgets[i] = {name = budget_name(budget), limit = budget[3]}
  end
  prepared[index] = done
  return done
end

-- The counters that a ticket holds something of: {name of the concurrency} or {window, whether its unit is a second}.
local held_by_masks = {}

local function held_counters(record)
  local known = table.concat({record[2], record[3], record[6], record[7], record[8]}, ' ')
  local held = held_by_masks[known]
  if held then
    return held
  end
  held = {}
  for layer, id in ipairs({record[2], record[3], string.sub(tag, 2, -2)}) do
    local mask = record[5 + layer]
    for kind = 1, CONCURRENCY do
      if mask % 2 == 1 then
        if kind == CONCURRENCY then
          held[#held + 1] = {name = concurrency_name(LAYERS[layer], id)}
        elseif kinds[kind][5] == 1 then
          held[#held + 1] = {window = window(LAYERS[layer], id, kind), second = kinds[kind][2] == 'second'}
        end
      end
      mask = floor(mask / 2)
    end
  end
  held_by_masks[known] = held
  return held
end

-- What a ticket holds, changed by the tokens it turned out to use. `cost` is nil while that is not known.
local function adjust(record, tokens, cost, places, ticket, share)
  local at = record[1]
  local held = held_counters(record)
  for i = 1, #held do
    local c = held[i]
    if c.name then
      if places ~= 0 then
        change(c.name, places, DAY_MS)
      end
    elseif not (c.second and oversized_ended(c.window, ticket, share)) then
      add(c.window, at, tokens)
    end
  end
  if cost then
    for i = 10, #record do
      settle_money(record[i], record[9], cost)
    end
  end
end

-- Operations -----------------------------------------------------------------------------------------------------------

local tickets_name = 'tickets:' .. tag .. ':' .. worker
local reaped_name = 'reaped:' .. tag
local new_tickets = {}
local seeded = call('EXISTS', 'seeded:' .. tag) == 1

local function refusal(counters, budgets, requests, tokens, cost, by_share)
  for i = 1, #counters do
    local c = counters[i]
    if c.name then
      local used = number(c.name).value
      if used + 1 > c.limit then
        return {0, c.layer, c.kind, c.limit, used, 0}
      end
    else
      local amount = c.tokens and tokens or requests
      local w = c.window
      local large = amount > c.limit
      if large and not c.second then
        return {3, c.layer, c.kind, c.limit}
      end
      if now < w.busy_until or w.total + amount > c.limit and (not large or w.total > 0) then
        return {0, c.layer, c.kind, c.limit, w.total, floor(fits_in(w, c.limit, math.min(amount, c.limit)))}
      end
    end
  end
  for i, b in ipairs(budgets) do
    local used = number(b.name)
    if not used.exists and not by_share then
      return {2}
    end
    if used.exists and cost > 0 and used.value + cost > b.limit then
      return {4, i - 1, b.limit, used.value}
    end
  end
  return nil
end

local BY_SHARE = 2
local NOTHING_HELD = {0, 0, 0}

local function admit(op)
  local ticket, prepared_spec, prompt, completion, cost = op[2], counters_of(op[3]), op[4], op[5], op[6]
  local tokens = prompt + completion
  local forced, by_share = op[7] == true, op[7] == BY_SHARE
  -- It was let in already: Redis may have it, and must not count it twice.
  if op[7] and (call('HEXISTS', tickets_name, ticket) == 1 or call('HEXISTS', reaped_name, ticket) == 1) then
    prepared_spec.admitted = true
    return -1 - op[3]
  end
  if not seeded and not op[7] then
    return {2}
  end
  -- Of what is not seeded the ledger will tell what a share let in.
  local counted = seeded or forced
  local counters, masks = prepared_spec.counters, prepared_spec.masks
  if not counted then
    counters, masks = {}, NOTHING_HELD
  end
  if not forced then
    local no = refusal(counters, prepared_spec.budgets, 1, tokens, cost, by_share)
    if no then
      return no
    end
  end
  for i = 1, #counters do
    local c = counters[i]
    if c.name then
      change(c.name, 1, DAY_MS)
    else
      local amount = c.tokens and tokens or 1
      if amount > c.limit and c.second then
        oversized(c.window, ticket, amount, math.max(c.limit, 1))
      else
        add(c.window, now, amount)
      end
    end
  end
  if prepared_spec.holds then
    local record = {now, prepared_spec.key, prepared_spec.env, prompt, completion, masks[1], masks[2], masks[3], cost}
    for _, b in ipairs(prepared_spec.budgets) do
      record[#record + 1] = b.name
      hold(b.name, cost)
    end
    new_tickets[ticket] = record
  end
  prepared_spec.admitted = true
  return -1 - op[3]
end

local function settle(op)
  local ticket, prompt, completion, cost = op[2], op[3], op[4], op[5]
  local places = -1
  local record = new_tickets[ticket]
  if record then
    new_tickets[ticket] = nil
  else
    local packed = call('HGET', tickets_name, ticket)
    if packed then
      call('HDEL', tickets_name, ticket)
    else
      packed = call('HGET', reaped_name, ticket)
      if not packed then
        return 0
      end
      call('HDEL', reaped_name, ticket)
      places, record = 0, unpack_message(packed)[2]
    end
    record = record or unpack_message(packed)
  end
  local held = record[4] + record[5]
  local share = held > 0 and math.min(1, (prompt + completion) / held) or 0
  adjust(record, prompt + completion - held, cost, places, ticket, share)
  return 1
end

-- Gives back what a dead worker's requests held. Their prompts were most likely read and stay counted; what they cost is
-- not known until the ledger says so, and stays held until then.
local function reap(dead)
  local name = 'tickets:' .. tag .. ':' .. dead
  local entries = call('HGETALL', name)
  for i = 1, #entries, 2 do
    local record = unpack_message(entries[i + 1])
    adjust(record, -record[5], nil, -1, entries[i], 0)
    record[5] = 0
    call('HSET', reaped_name, entries[i], pack({now, record}))
  end
  if #entries > 0 then
    call('PEXPIRE', reaped_name, DAY_MS)
  end
  call('DEL', name)
  call('ZREM', KEYS[1], dead)
end

local function charge(op)
  -- In an empty Redis the ledger tells what was used.
  if not seeded then
    return 0
  end
  local spec = counters_of(op[2])
  for _, c in ipairs(spec.counters) do
    if c.window then
      add(c.window, now, kinds[c.kind][5] == 1 and op[4] or op[3])
    end
  end
  for _, b in ipairs(spec.budgets) do
    if number(b.name).exists then
      change(b.name, op[5], BUDGET_KEEP_MS)
    end
  end
  return 1
end

local function take(op)
  local spec = counters_of(op[2])
  local granted, room_in = {op[3], op[4]}, 0
  for _, c in ipairs(spec.counters) do
    if c.window then
      local what = kinds[c.kind][5] + 1
      granted[what] = math.max(0, math.min(granted[what], c.limit - c.window.total))
      if granted[what] == 0 and op[2 + what] > 0 then
        room_in = math.max(room_in, fits_in(c.window, c.limit, 1))
      end
    end
  end
  for _, c in ipairs(spec.counters) do
    if c.window then
      add(c.window, now, granted[kinds[c.kind][5] + 1])
    end
  end
  return {granted[1], granted[2], now, floor(room_in)}
end

local function give(op)
  for _, c in ipairs(counters_of(op[2]).counters) do
    if c.window then
      add(c.window, op[5], -(kinds[c.kind][5] == 1 and op[4] or op[3]))
    end
  end
  return 1
end

local function seed(op)
  for _, budget in ipairs(op[3]) do
    local name = 'budget:' .. tag .. ':' .. budget[1]
    if not number(name).exists then
      local held = number('held:' .. name).value
      local late = number(late_name(name, 0)).value + number(late_name(name, 1)).value
      change(name, budget[2] + held + late, BUDGET_KEEP_MS)
      change('held:' .. name, -held, BUDGET_KEEP_MS)
    end
  end
  if seeded then
    return 0
  end
  for _, entry in ipairs(op[2]) do
    add(window(entry[1], entry[2], entry[3]), now - entry[4], entry[5])
  end
  call('SET', 'seeded:' .. tag, digits(now))
  seeded = true
  return 1
end

local function reaped(op)
  local names = {}
  local entries = call('HGETALL', reaped_name)
  for i = 1, #entries, 2 do
    local age = now - unpack_message(entries[i + 1])[1]
    if #names < op[3] and age >= op[2] then
      names[#names + 1] = {entries[i], age}
    end
  end
  return names
end

call('ZADD', KEYS[1], now_ms + lease_ms, worker)
call('PEXPIRE', KEYS[1], DAY_MS)
for _, dead in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'LIMIT', 0, 4)) do
  reap(dead)
end

local run = {admit, settle, function() return call('ZRANGE', KEYS[1], 0, -1) end, charge, take, give, seed, reaped}
local results = {}
for i, op in ipairs(unpack_message(ARGV[3])) do
  results[i] = run[op[1]](op)
end
write_windows()
write_numbers()
if next(new_tickets) then
  local fields = {}
  for ticket, record in pairs(new_tickets) do
    fields[#fields + 1] = ticket
    fields[#fields + 1] = pack(record)
  end
  call('HSET', tickets_name, unpack(fields))
  call('PEXPIRE', tickets_name, DAY_MS)
end
local totals = {}
for index = 1, #specs do
  local of = prepared[index - 1]
  local told = 0
  if of and of.admitted then
    told = {1, now}
    for i, c in ipairs(of.counters) do
      told[i + 2] = c.name and number(c.name).value or c.window.total
    end
    for _, b in ipairs(of.budgets) do
      told[#told + 1] = number(b.name).value
    end
  end
  totals[index] = told
end
return pack({results, totals})
