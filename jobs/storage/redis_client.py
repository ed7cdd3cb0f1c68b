"""The connections to a Redis or a Valkey."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from jobs.errors import StartError

# Valkey speaks the protocol of Redis.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "redis+unix": "unix",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "unix",
}
_ANSWER_SECONDS = 2.0


def redis_client(url: str) -> Redis:
    """A client, which connects on its first call.

    Raises:
        StartError: the URL is not valid.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        beginnings = ", ".join(f"{one}://" for one in _SCHEMES)
        raise StartError(f"redis_url: must begin with one of {beginnings}")
    try:
        return Redis.from_url(
            f"{_SCHEMES[scheme]}://{rest}",
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            socket_keepalive=True,
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
        )
    except ValueError:
        raise StartError(
            "redis_url: the URL is not valid; write it as redis://:password@host:6379/0"
        ) from None
