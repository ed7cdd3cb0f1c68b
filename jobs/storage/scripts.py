"""The Lua scripts of the Redis storage: what the API and the sweep do to jobs.

Each is one atomic change. ``script_functions.py`` has the keys.
"""

from __future__ import annotations

from jobs.storage.script_base import EVEN_IF_FULL
from jobs.storage.script_functions import JOB_FUNCTIONS

# ARGV: prefix, id, model, priority, seed, expires_in, body, idempotency key, digest, the most
# waiting jobs, the most bytes of bodies, owner, the most waiting jobs of the owner, what a job
# takes of the owner's minute, URL and lane of the webhook, the most webhooks that wait, the most of
# the owner
SUBMIT = (
    JOB_FUNCTIONS
    + """
local _, id, model, priority, seed, expires_in, body, key, digest = unpack(ARGV)
local owner, owner_waits, part = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local url, lane, most_webhooks, owner_webhooks = unpack(ARGV, 15)
if key ~= '' then
  local known = redis.call('HMGET', k('idempotency', owner, key), 'id', 'digest')
  if known[1] and redis.call('EXISTS', k('job', known[1])) == 1 then
    if known[2] ~= digest then return {'conflict'} end
    return {'known', describe(known[1])}
  end
end
-- The client repeats a call whose response is lost.
if redis.call('EXISTS', k('job', id)) == 1 then return {'new', describe(id)} end
local waiting = redis.call('ZCARD', k('status', 'queued'))
local seconds = redis.call('GET', k('seconds', model)) or '0'
if waiting >= tonumber(ARGV[10]) then return {'many', waiting, seconds} end
local bytes = tonumber(redis.call('GET', k('body_bytes')) or 0)
if bytes + #body > tonumber(ARGV[11]) then return {'large', waiting, seconds} end
if url ~= '' and redis.call('ZCARD', k('deliveries')) >= tonumber(most_webhooks) then
  return {'webhooks', waiting, seconds}
end
local own = redis.call('ZCARD', k('owner', owner, 'deliveries'))
if url ~= '' and owner_webhooks ~= '0' and own >= tonumber(owner_webhooks) then
  return {'own_webhooks', own}
end
if owner ~= '' then
  local waits = redis.call('ZCARD', k('owner', owner, 'status', 'queued'))
  if owner_waits > 0 and waits >= owner_waits then return {'owner', waits, seconds} end
  if part > 0 then
    local till = math.max(now, tonumber(redis.call('GET', k('rate', owner)) or 0)) + part
    local late = till - now - math.max(60000, part)
    -- The sum of a minute's parts is not exactly a minute.
    if late > 1 then return {'fast', math.ceil(late)} end
    redis.call('SET', k('rate', owner), string.format('%.6f', till), 'PX', math.ceil(till - now))
  end
end
local sequence = redis.call('INCR', k('sequence'))
local expires_at = now + tonumber(expires_in)
local place = (9 - tonumber(priority)) * 1e14 + sequence
redis.call('HSET', k('job', id), 'id', id, 'sequence', sequence, 'model', model, 'priority',
  priority, 'seed', seed, 'created_at', now, 'expires_in', expires_in, 'expires_at', expires_at,
  'tries', 0, 'step', 0, 'steps', 0, 'place', string.format('%.0f', place), 'owner', owner)
redis.call('SET', k('body', id), body)
redis.call('INCRBY', k('body_bytes'), #body)
enqueue(id)
redis.call('ZADD', k('expiry'), expires_at, id)
list(id, owner, sequence, 'all')
if key ~= '' then
  redis.call('HSET', k('idempotency', owner, key), 'id', id, 'digest', digest)
  redis.call('HSET', k('job', id), 'idempotency_key', key)
end
if url ~= '' then
  redis.call('HSET', k('webhook', id), 'url', url, 'lane', lane)
end
enter(id, 'queued')
notify('queue', model)
return {'new', describe(id)}
"""
)

# ARGV: prefix, id
READ = JOB_FUNCTIONS + "return describe(ARGV[2])"

# ARGV: prefix, key of the list, highest sequence as a bound of ZREVRANGEBYSCORE, count
PAGE = (
    JOB_FUNCTIONS
    + """
local found = {}
local key, last, count = k(ARGV[2]), ARGV[3], ARGV[4]
for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', key, last, '-inf', 'LIMIT', 0, count)) do
  found[#found + 1] = describe(id) or nil
end
return found
"""
)

# ARGV: prefix, id
CANCEL = (
    JOB_FUNCTIONS
    + EVEN_IF_FULL
    + """
local id = ARGV[2]
local status = redis.call('HGET', k('job', id), 'status')
if status and not is_final(status) then finish(id, 'cancelled') end
return describe(id)
"""
)

# ARGV: prefix, model
STATE = (
    JOB_FUNCTIONS
    + """
local model = ARGV[2]
local oldest = redis.call('ZRANGE', k('waiting', model), 0, 0, 'WITHSCORES')[2]
local age = oldest and now - tonumber(oldest) or 0
return {redis.call('ZCARD', k('queue', model)), redis.call('SCARD', k('running', model)), age,
  redis.call('HGETALL', k('outcomes', model))}
"""
)

# ARGV: prefix, most tries, error of a lost worker, error of an expired job, most jobs, the pause
# between sweeps that is an outage, and how long leases last after it
SWEEP = (
    JOB_FUNCTIONS
    + EVEN_IF_FULL
    + """
local _, most, lost, expired, count, pause, grace = unpack(ARGV)
local swept = tonumber(redis.call('GET', k('swept')) or now)
if redis.call('EXISTS', k('leases')) == 1 then redis.call('SET', k('swept'), now) end
if now - swept > tonumber(pause) then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', k('leases'), '-inf', now)) do
    redis.call('ZADD', k('leases'), now + tonumber(grace), id)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', k('leases'), '-inf', now, 'LIMIT', 0, count)) do
  local tries, status = unpack(redis.call('HMGET', k('job', id), 'tries', 'status'))
  if not tries then
    forget(id)
  elseif status == 'starting' then
    redis.call('HINCRBY', k('job', id), 'tries', -1)
    requeue(id)
  elseif tonumber(tries) >= tonumber(most) then
    finish(id, 'failed', 'error', lost)
  else
    requeue(id)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', k('expiry'), '-inf', now, 'LIMIT', 0, count)) do
  local status, key, owner =
    unpack(redis.call('HMGET', k('job', id), 'status', 'idempotency_key', 'owner'))
  if not status then
    forget(id)
  elseif is_final(status) then
    drop_pictures(id)
    unlist(id, owner, 'status', status)
    unlist(id, owner, 'all')
    redis.call('ZREM', k('expiry'), id)
    if key then redis.call('DEL', k('idempotency', owner, key)) end
    redis.call('DEL', k('job', id))
    notify('job', id)
  else
    finish(id, 'expired', 'error', expired)
  end
end
"""
)
