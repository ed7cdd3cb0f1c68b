"""The Lua scripts of the webhooks in Redis. Each is one atomic change.

    webhook:<job>     hash    URL and lane of a job that has not ended; which events it has had
    delivery:<id>     hash    an event that is not delivered, with the record of the job
    outbox:<lane>     zset    deliveries of a lane by the time when they are due
    lane:<lane>       string  the token of the process that sends the first of them
    lanes             zset    lanes by the time of their first delivery, or the end of the lease
    deliveries        zset    all deliveries by the time of the event
    owner:<o>:deliveries  zset  those of one owner
    webhook_outcomes  hash    how many deliveries have ended, by outcome, and failed tries

Times are milliseconds by the clock of Redis.
"""

from __future__ import annotations

from jobs.job import WEBHOOK_PROGRESS_SECONDS
from jobs.storage.script_base import BASE, EVEN_IF_FULL

# Part of the scripts of the jobs, so that an event is recorded with the change that causes it.
OUTBOX = f"""
local progress_pause = {WEBHOOK_PROGRESS_SECONDS * 1000:.0f}

local function drop(id, outcome)
  local lane, owner = unpack(redis.call('HMGET', k('delivery', id), 'lane', 'owner'))
  if not lane then return end
  redis.call('ZREM', k('outbox', lane), id)
  redis.call('ZREM', k('deliveries'), id)
  if owner then redis.call('ZREM', k('owner', owner, 'deliveries'), id) end
  redis.call('DEL', k('delivery', id))
  redis.call('HINCRBY', k('webhook_outcomes'), outcome, 1)
end

local function free(lane)
  redis.call('DEL', k('lane', lane))
  local first = redis.call('ZRANGE', k('outbox', lane), 0, 0, 'WITHSCORES')
  if first[1] then
    -- Behind the other lanes that are due.
    redis.call('ZADD', k('lanes'), math.max(tonumber(first[2]), now), lane)
  else
    redis.call('ZREM', k('lanes'), lane)
  end
end

-- Record an event of a job with a webhook. Its identifier depends on the event alone.
local function report(job, event)
  local url, lane, started, progress_at, last = unpack(redis.call('HMGET', k('webhook', job),
    'url', 'lane', 'started', 'progress_at', 'last'))
  if not url or (event == 'started' and started) then return end
  if event == 'progress' and now - tonumber(progress_at) < progress_pause then return end
  if last then drop(last, 'superseded') end
  local id, due = 'msg_' .. job .. '_' .. event, now
  if event == 'completed' then
    redis.call('DEL', k('webhook', job))
    -- After the start in the same millisecond.
    due = now + 0.5
  elseif event == 'started' then
    redis.call('HSET', k('webhook', job), 'started', 1, 'progress_at', now)
  else
    id = id .. '_' .. redis.call('HINCRBY', k('webhook', job), 'count', 1)
    redis.call('HSET', k('webhook', job), 'progress_at', now, 'last', id)
  end
  local owner = redis.call('HGET', k('job', job), 'owner')
  redis.call('HSET', k('delivery', id), 'event', event, 'url', url, 'lane', lane, 'tries', 0,
    'created_at', now, 'owner', owner, 'record', cjson.encode(describe(job)))
  redis.call('ZADD', k('outbox', lane), due, id)
  redis.call('ZADD', k('deliveries'), now, id)
  if owner ~= '' then redis.call('ZADD', k('owner', owner, 'deliveries'), now, id) end
  if redis.call('EXISTS', k('lane', lane)) == 0 then free(lane) end
  notify('outbox')
end
"""

# ARGV: prefix, token, lease
CLAIM_DELIVERY = (
    BASE
    + OUTBOX
    + EVEN_IF_FULL
    + """
local _, token, lease = unpack(ARGV)
-- The client repeats a call whose response is lost.
local known = redis.call('GET', k('claim', token))
while true do
  local lane = known and redis.call('GET', k('lane', known)) == token and known
    or redis.call('ZRANGEBYSCORE', k('lanes'), '-inf', now + 1, 'LIMIT', 0, 1)[1]
  if not lane then return false end
  local first = redis.call('ZRANGE', k('outbox', lane), 0, 0, 'WITHSCORES')
  if first[1] and redis.call('EXISTS', k('delivery', first[1])) == 0 then
    -- Redis has evicted it.
    redis.call('ZREM', k('outbox', lane), first[1])
    redis.call('ZREM', k('deliveries'), first[1])
  elseif first[1] and tonumber(first[2]) <= now + 1 then
    redis.call('SET', k('lane', lane), token)
    redis.call('SET', k('claim', token), lane, 'EX', 60)
    redis.call('ZADD', k('lanes'), now + tonumber(lease), lane)
    local event, url, tries, created_at, record = unpack(redis.call('HMGET',
      k('delivery', first[1]), 'event', 'url', 'tries', 'created_at', 'record'))
    return {first[1], event, url, lane, tries, now - tonumber(created_at), record}
  else
    free(lane)
  end
end
"""
)

# ARGV: prefix, id, lane, token, outcome
END_DELIVERY = (
    BASE
    + OUTBOX
    + EVEN_IF_FULL
    + """
local _, id, lane, token, outcome = unpack(ARGV)
if redis.call('GET', k('lane', lane)) ~= token then return 0 end
drop(id, outcome)
free(lane)
return 1
"""
)

# ARGV: prefix, id, lane, token, pause, 1 if the try has failed
RETRY_DELIVERY = (
    BASE
    + OUTBOX
    + EVEN_IF_FULL
    + """
local _, id, lane, token, pause, failed = unpack(ARGV)
if redis.call('GET', k('lane', lane)) ~= token then return 0 end
if failed == '1' then redis.call('HINCRBY', k('webhook_outcomes'), 'failures', 1) end
-- A newer event may have replaced it.
if redis.call('EXISTS', k('delivery', id)) == 1 then
  redis.call('HINCRBY', k('delivery', id), 'tries', failed)
  redis.call('ZADD', k('outbox', lane), now + tonumber(pause), id)
end
free(lane)
notify('outbox')
return 1
"""
)

# Without arguments.
WEBHOOK_STATE = (
    BASE
    + """
local oldest = redis.call('ZRANGE', k('deliveries'), 0, 0, 'WITHSCORES')[2]
return {redis.call('ZCARD', k('deliveries')), oldest and now - tonumber(oldest) or 0,
  redis.call('HGETALL', k('webhook_outcomes'))}
"""
)
