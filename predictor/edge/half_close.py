"""The end of a connection: each side closes on its own, and the client may have left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_POLL_SECONDS = 0.1


class ResponseTransport:
    """The transport of one response, which leaves it to ``end`` how the connection closes."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


class ResetPoll:
    """Ends a connection once its client resets it, which nothing else reports any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None

    def check(self) -> None:
        """Look for the reset now, and again every tenth of a second."""
        if self._transport.is_closing():
            return
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(_POLL_SECONDS, self.check)

    def stop(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()


def closes_own_side(transport: asyncio.Transport) -> bool:
    """Close the server's side; False over TLS, or if the client has reset the connection."""
    if not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:
        return False
    return True
