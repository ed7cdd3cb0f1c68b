"""File descriptors: how many connections the process can hold open, see getrlimit(2)."""

from __future__ import annotations

import contextlib
import resource

_MOST_CONNECTIONS = 10_000
# For the weights, the library files, the reader processes and the server's own connections.
_RESERVE = 200


def raise_limit() -> None:
    """Raise the soft limit to the hard one; some container runtimes set the soft one to 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports no hard limit, and refuses a soft limit as high as that.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """The number of connections that may be open at the same time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(soft - _RESERVE, soft // 2))
