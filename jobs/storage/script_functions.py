"""The keys of the Redis storage, and the Lua functions with which its scripts change jobs.

    job:<id>          hash    the record; ``token`` is that of the claim
    body:<id>         string  the body of a job that has not ended
    picture:<id>:<n>  string  the bytes of a picture
    preview:<id>      string  the newest preview of a running job
    queue:<model>     zset    waiting jobs by place: priority, then sequence
    waiting:<model>   zset    waiting jobs by submission, for the age of the oldest
    running:<model>   set     jobs with a lease
    alone:<model>     string  the running job whose last try excludes others
    claim:<token>     string  the job or the lane of a claim, for a minute
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
from jobs.storage.script_base import BASE, FORGET

JOB_FUNCTIONS = (
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
