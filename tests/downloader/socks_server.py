"""A SOCKS5 proxy on this machine (RFC 1928): every host name leads to 127.0.0.1."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer

_CONNECT, _IPV4, _HOST_NAME = 1, 1, 3


@dataclass
class SocksProxy:
    """``url`` is the value of ``ALL_PROXY``, ``hosts`` the hosts of the connections so far."""

    url: str = ""
    hosts: list[str] = field(default_factory=list)


@contextmanager
def running_socks_proxy() -> Iterator[SocksProxy]:
    """A proxy that serves until the block ends."""
    proxy = SocksProxy()
    handler = type("BoundHandler", (_Handler,), {"proxy": proxy})
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        proxy.url = f"socks5://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


class _Handler(StreamRequestHandler):
    proxy: SocksProxy
    rbufsize = 0

    def handle(self) -> None:
        _, count = self.rfile.read(2)
        self.rfile.read(count)
        self.wfile.write(b"\x05\x00")  # no authentication
        _, command, _, kind = self.rfile.read(4)
        assert command == _CONNECT
        assert kind in (_IPV4, _HOST_NAME)
        length = 4 if kind == _IPV4 else self.rfile.read(1)[0]
        host = self.rfile.read(length)
        self.proxy.hosts.append(socket.inet_ntoa(host) if kind == _IPV4 else host.decode())
        port = int.from_bytes(self.rfile.read(2), "big")
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            self.wfile.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            _relay(self.connection, upstream)


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        for source in select.select([one, other], [], [])[0]:
            chunk = source.recv(65536)
            if not chunk:
                return
            (other if source is one else one).sendall(chunk)
