"""The Lua scripts of jobs with pictures in a bucket; ``script_functions.py`` has the keys."""

from __future__ import annotations

from jobs.storage.script_base import BASE

# ARGV: prefix, most jobs
EXPIRED_UPLOADS = (
    BASE
    + """
local found, count = {}, ARGV[2]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', k('uploads'), '-inf', now, 'LIMIT', 0, count)) do
  local job = describe(id)
  if job then found[#found + 1] = job else redis.call('ZREM', k('uploads'), id) end
end
return found
"""
)

# ARGV: prefix, then the ids
RELEASE_UPLOADS = (
    BASE
    + """
for index = 2, #ARGV do
  local expires_at = redis.call('ZSCORE', k('uploads'), ARGV[index])
  if expires_at then
    redis.call('ZADD', k('expiry'), expires_at, ARGV[index])
    redis.call('ZREM', k('uploads'), ARGV[index])
  end
end
"""
)
