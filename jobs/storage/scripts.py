"""The Lua scripts of the Redis storage. Each is one atomic change.

    job:<id>          hash    the record; ``token`` is that of the claim
    body:<id>         string  the body of a job that has not ended
    picture:<id>:<n>  string  the bytes of a picture
    preview:<id>      string  the newest preview of a running job
    queue:<model>     zset    waiting jobs by place: priority, then sequence
    waiting:<model>   zset    waiting jobs by submission, for the age of the oldest
    running:<model>   set     jobs with a lease
    alone:<model>     string  the running job whose last try excludes others
    seconds:<model>   string  what a job of the model has taken lately, in milliseconds
    outcomes:<model>  hash    how many jobs have ended, by status
    leases            zset    running jobs by the end of their lease
    swept             string  the time of the last sweep with running jobs
    expiry            zset    all jobs by the end of ``expires_in``, but those in ``uploads``
    uploads           zset    jobs with pictures in a bucket by the end of ``expires_in``
    all, status:<s>   zset    jobs by sequence, for lists
    owner:<o>:<list>  zset    those of one owner, in the same lists
    rate:<owner>      string  when the owner's minute of jobs will be empty
    results           zset    jobs with stored pictures by their end
    idempotency:<owner>:<key>  hash  the job of an Idempotency-Key, and the digest of its body
    sequence, body_bytes, picture_bytes   counters
    changes           channel names for ``Changes``

``outbox_scripts.py`` has the keys of the webhooks.

Times are milliseconds by the clock of Redis, so the clocks of replicas do not matter. The first
argument is the prefix of all keys.
"""

from __future__ import annotations

from jobs.storage.outbox_scripts import OUTBOX
from jobs.storage.script_base import BASE, EVEN_IF_FULL, FORGET

_COMMON = (
    BASE
    + FORGET
    + OUTBOX
    + """
local function list(id, owner, sequence, ...)
  redis.call('ZADD', k(...), sequence, id)
  if owner ~= '' then redis.call('ZADD', k('owner', owner, ...), sequence, id) end
end

local function unlist(id, owner, ...)
  redis.call('ZREM', k(...), id)
  if owner ~= '' then redis.call('ZREM', k('owner', owner, ...), id) end
end

local function enter(id, status, ...)
  local old, sequence, owner =
    unpack(redis.call('HMGET', k('job', id), 'status', 'sequence', 'owner'))
  if old then unlist(id, owner, 'status', old) end
  list(id, owner, sequence, 'status', status)
  redis.call('HSET', k('job', id), 'status', status, ...)
  notify('job', id)
end

local function release(id, model)
  redis.call('ZREM', k('leases'), id)
  redis.call('SREM', k('running', model), id)
  if redis.call('GET', k('alone', model)) == id then redis.call('DEL', k('alone', model)) end
  redis.call('HDEL', k('job', id), 'token')
  redis.call('DEL', k('preview', id))
  notify('stop', id)
  notify('queue', model)
end

local function enqueue(id)
  local job = redis.call('HMGET', k('job', id), 'model', 'place', 'created_at')
  redis.call('ZADD', k('queue', job[1]), job[2], id)
  redis.call('ZADD', k('waiting', job[1]), job[3], id)
end

local function dequeue(id, model)
  redis.call('ZREM', k('queue', model), id)
  redis.call('ZREM', k('waiting', model), id)
end

local function requeue(id)
  release(id, redis.call('HGET', k('job', id), 'model'))
  enqueue(id)
  redis.call('HDEL', k('job', id), 'started_at', 'accepted_at')
  enter(id, 'queued', 'step', 0, 'steps', 0)
end

local function finish(id, status, ...)
  local model, expires_in = unpack(redis.call('HMGET', k('job', id), 'model', 'expires_in'))
  local expires_at = now + tonumber(expires_in)
  dequeue(id, model)
  release(id, model)
  redis.call('HINCRBY', k('outcomes', model), status, 1)
  redis.call('DECRBY', k('body_bytes'), redis.call('STRLEN', k('body', id)))
  redis.call('DEL', k('body', id))
  redis.call('ZADD', k('expiry'), expires_at, id)
  enter(id, status, 'ended_at', now, 'expires_at', expires_at, ...)
  report(id, 'completed')
end

local function is_final(status)
  return status == 'succeeded' or status == 'failed' or status == 'cancelled'
    or status == 'expired'
end

local function drop_pictures(id)
  local count = tonumber(redis.call('HGET', k('job', id), 'picture_count') or 0)
  for number = 0, count - 1 do
    local key = k('picture', id, number)
    redis.call('DECRBY', k('picture_bytes'), redis.call('STRLEN', key))
    redis.call('DEL', key)
  end
  redis.call('ZREM', k('results'), id)
end

local function is_void(id, token) return redis.call('HGET', k('job', id), 'token') ~= token end
"""
)

# ARGV: prefix, id, model, priority, seed, expires_in, body, idempotency key, digest, the most
# waiting jobs, the most bytes of bodies, owner, the most waiting jobs of the owner, what a job
# takes of the owner's minute, URL and lane of the webhook, the most webhooks that wait, the most of
# the owner
SUBMIT = (
    _COMMON
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
READ = _COMMON + "return describe(ARGV[2])"

# ARGV: prefix, key of the list, highest sequence as a bound of ZREVRANGEBYSCORE, count
PAGE = (
    _COMMON
    + """
local found = {}
local key, last, count = k(ARGV[2]), ARGV[3], ARGV[4]
for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', key, last, '-inf', 'LIMIT', 0, count)) do
  found[#found + 1] = describe(id) or nil
end
return found
"""
)

# ARGV: prefix, model, token, lease, most tries, error of an expired job
CLAIM = (
    _COMMON
    + EVEN_IF_FULL
    + """
local _, model, token, lease, most, expired = unpack(ARGV)
local id
while true do
  id = redis.call('ZRANGE', k('queue', model), 0, 0)[1]
  if not id then return false end
  local expires_at = redis.call('HGET', k('job', id), 'expires_at')
  if not expires_at then
    dequeue(id, model)
    forget(id)
  elseif tonumber(expires_at) > now then
    break
  else
    finish(id, 'expired', 'error', expired)
  end
end
local tries = tonumber(redis.call('HGET', k('job', id), 'tries'))
local alone = tries > 0 and tries + 1 >= tonumber(most)
if redis.call('EXISTS', k('alone', model)) == 1 then return false end
if alone and redis.call('SCARD', k('running', model)) > 0 then return false end
if alone then redis.call('SET', k('alone', model), id) end
dequeue(id, model)
redis.call('SADD', k('running', model), id)
redis.call('ZADD', k('leases'), now + tonumber(lease), id)
enter(id, 'starting', 'token', token, 'tries', tries + 1, 'started_at', now, 'step', 0, 'steps', 0)
return {describe(id), redis.call('GET', k('body', id))}
"""
)

# ARGV: prefix, id, token, lease, step, steps
RENEW = (
    _COMMON
    + EVEN_IF_FULL
    + """
local _, id, token, lease, step, steps = unpack(ARGV)
if is_void(id, token) then return 0 end
redis.call('ZADD', k('leases'), now + tonumber(lease), id)
local known = redis.call('HMGET', k('job', id), 'status', 'step', 'steps')
if steps ~= '0' and (known[1] ~= 'in_progress' or known[2] ~= step or known[3] ~= steps) then
  redis.call('HSETNX', k('job', id), 'accepted_at', now)
  enter(id, 'in_progress', 'step', step, 'steps', steps)
  report(id, known[1] == 'in_progress' and 'progress' or 'started')
end
return 1
"""
)

# ARGV: prefix, id, token, data of the event
NOTE_PREVIEW = (
    _COMMON
    + """
local _, id, token, event = unpack(ARGV)
if is_void(id, token) then return 0 end
redis.call('SET', k('preview', id), event)
notify('preview', id)
return 1
"""
)

# ARGV: prefix, id, token, most tries, reason; without a reason the try does not count
GIVE_BACK = (
    _COMMON
    + EVEN_IF_FULL
    + """
local _, id, token, most, reason = unpack(ARGV)
if is_void(id, token) then return 0 end
if reason == '' then
  redis.call('HINCRBY', k('job', id), 'tries', -1)
  requeue(id)
elseif tonumber(redis.call('HGET', k('job', id), 'tries')) >= tonumber(most) then
  finish(id, 'failed', 'error', reason)
else
  requeue(id)
end
return 1
"""
)

# ARGV: prefix, id, token, most stored bytes, share of the newest duration, pictures as JSON, steps,
# 1 if the pictures are in a bucket, then the bytes of each picture
FINISH = (
    _COMMON
    + """
local _, id, token, most, share, pictures, steps, uploaded = unpack(ARGV, 1, 8)
if is_void(id, token) then return 0 end
local size = 0
for index = 9, #ARGV do size = size + #ARGV[index] end
while tonumber(redis.call('GET', k('picture_bytes')) or 0) + size > tonumber(most) do
  local oldest = redis.call('ZRANGE', k('results'), 0, 0)[1]
  if not oldest then break end
  drop_pictures(oldest)
  redis.call('HSET', k('job', oldest), 'has_lost_pictures', 1)
  notify('job', oldest)
end
for index = 9, #ARGV do redis.call('SET', k('picture', id, index - 9), ARGV[index]) end
redis.call('INCRBY', k('picture_bytes'), size)
if size > 0 then redis.call('ZADD', k('results'), now, id) end
local job = redis.call('HMGET', k('job', id), 'model', 'accepted_at', 'started_at', 'status')
local accepted = job[2] or job[3]
if job[4] == 'starting' then
  enter(id, 'in_progress', 'accepted_at', accepted, 'steps', steps)
  report(id, 'started')
end
local known = tonumber(redis.call('GET', k('seconds', job[1])) or 0)
local newest = now - tonumber(accepted)
if known > 0 then newest = known + tonumber(share) * (newest - known) end
redis.call('SET', k('seconds', job[1]), newest)
finish(id, 'succeeded', 'pictures', pictures, 'picture_count', #ARGV - 8, 'accepted_at', accepted,
  'step', steps, 'steps', steps)
if uploaded == '1' then
  redis.call('ZADD', k('uploads'), redis.call('ZSCORE', k('expiry'), id), id)
  redis.call('ZREM', k('expiry'), id)
end
return 1
"""
)

# ARGV: prefix, id, token, reason
FAIL = (
    _COMMON
    + EVEN_IF_FULL
    + """
local _, id, token, reason = unpack(ARGV)
if is_void(id, token) then return 0 end
finish(id, 'failed', 'error', reason)
return 1
"""
)

# ARGV: prefix, id
CANCEL = (
    _COMMON
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
    _COMMON
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
    _COMMON
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
