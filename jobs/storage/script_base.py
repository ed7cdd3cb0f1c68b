"""What all Lua scripts of the Redis storage begin with: keys, the clock, records and changes."""

from __future__ import annotations

BASE = """
local prefix = ARGV[1]
local function k(...) return prefix .. table.concat({...}, ':') end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function describe(id)
  local fields = redis.call('HGETALL', k('job', id))
  if #fields == 0 then return false end
  local model = redis.call('HGET', k('job', id), 'model')
  local position = redis.call('ZRANK', k('queue', model), id) or -1
  local running = redis.call('SCARD', k('running', model))
  return {fields, position, running, redis.call('GET', k('seconds', model)) or '0', now}
end

local function notify(...) redis.call('PUBLISH', k('changes'), table.concat({...}, ':')) end
"""

# For scripts that free memory, or keep what runs. When the memory is full, Redis refuses the first
# write of a script if it may need memory, but no later one, so that a script is not cut in half.
EVEN_IF_FULL = """
redis.call('DEL', k('none'))
"""

# A Redis that may evict keys deletes records, but not their places in the lists.
FORGET = """
local function forget(id)
  for _, name in ipairs({'leases', 'expiry', 'all', 'results'}) do
    redis.call('ZREM', k(name), id)
  end
  for _, status in ipairs({'queued', 'starting', 'in_progress', 'succeeded', 'failed', 'cancelled',
    'expired'}) do
    redis.call('ZREM', k('status', status), id)
  end
end
"""
