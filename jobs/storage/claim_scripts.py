"""The Lua scripts of the Redis storage: what a worker does to the job that it runs.

Each is one atomic change. ``script_functions.py`` has the keys.
"""

from __future__ import annotations

from jobs.storage.script_base import EVEN_IF_FULL
from jobs.storage.script_functions import JOB_FUNCTIONS

# ARGV: prefix, model, token, lease, most tries, error of an expired job
CLAIM = (
    JOB_FUNCTIONS
    + EVEN_IF_FULL
    + """
local _, model, token, lease, most, expired = unpack(ARGV)
-- The client repeats a call whose response is lost.
local id = redis.call('GET', k('claim', token))
if id and not is_void(id, token) then return {describe(id), redis.call('GET', k('body', id))} end
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
redis.call('SET', k('claim', token), id, 'EX', 60)
redis.call('SADD', k('running', model), id)
redis.call('ZADD', k('leases'), now + tonumber(lease), id)
enter(id, 'starting', 'token', token, 'tries', tries + 1, 'started_at', now, 'step', 0, 'steps', 0)
return {describe(id), redis.call('GET', k('body', id))}
"""
)

# ARGV: prefix, id, token, lease, step, steps
RENEW = (
    JOB_FUNCTIONS
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
    JOB_FUNCTIONS
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
    JOB_FUNCTIONS
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
    JOB_FUNCTIONS
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
    JOB_FUNCTIONS
    + EVEN_IF_FULL
    + """
local _, id, token, reason = unpack(ARGV)
if is_void(id, token) then return 0 end
finish(id, 'failed', 'error', reason)
return 1
"""
)
