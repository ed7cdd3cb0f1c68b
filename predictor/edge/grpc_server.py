"""The gRPC port: a ``grpc.aio`` server that calls the application of the HTTP port.

KServe's own ``GRPCServer`` ignores ``--host``, and its servicer hands parsed messages to the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
from starlette.types import ASGIApp

from predictor.edge.descriptors import most_connections
from predictor.edge.grpc_calls import GrpcCalls
from predictor.errors import ModelLoadError

logger = logging.getLogger(__name__)

# The memory for messages that are not complete yet.
_READ_BYTES = 512 * 2**20
# How much longer a message may be than its tensors.
_ENVELOPE_BYTES = 65_536
_POLL_SECONDS = 0.05
# A grace period that never ends.
_NO_LIMIT = 1e9


class GrpcServer:
    """Serves RPCs on one port, on the event loop that creates it.

    ``app`` is the whole application, and ``max_bytes`` the bound of a request body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._calls = GrpcCalls(app, max_reads=max(1, _READ_BYTES // max_bytes))
        self._aio_server = grpc.aio.server(
            handlers=[self._calls.handlers],
            options=[
                ("grpc.max_receive_message_length", max_bytes + _ENVELOPE_BYTES),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second process could listen on the same port, and get half the RPCs.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=most_connections(),
        )
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an RPC is in flight."""
        return self._calls.are_in_flight

    def bind(
        self, host: str, port: int, certificate: str | None = None, key: str | None = None
    ) -> int:
        """Take the port and return it; 0 picks a free one. Clients connect after the start.

        ``certificate`` and ``key`` are the files for TLS.

        Raises:
            ModelLoadError: the port is not free, or the certificate is not valid.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if not certificate or not key:
                bound: int = self._aio_server.add_insecure_port(address)
            else:
                bound = self._aio_server.add_secure_port(address, _credentials(certificate, key))
        except (RuntimeError, OSError):
            raise ModelLoadError(
                f"grpc_port: the server cannot listen on {address}; the port may be in use"
            ) from None
        logger.info("gRPC on %s:%d", host, bound)
        return bound

    async def start(self) -> None:
        """Accept clients."""
        await self._aio_server.start()

    def start_after(self, is_open: Callable[[], bool]) -> None:
        """Accept clients once ``is_open`` holds."""

        async def start() -> None:
            while not is_open():  # noqa: ASYNC110 - uvicorn has no event for this
                await asyncio.sleep(_POLL_SECONDS)
            await self.start()

        self._starting = asyncio.create_task(start())

    def close_port(self) -> None:
        """Refuse new RPCs; those in flight continue until ``stop``."""
        if self._starting is not None:
            self._starting.cancel()
        self._stopping = self._stopping or asyncio.create_task(self._aio_server.stop(_NO_LIMIT))

    async def stop(self, seconds: float) -> None:
        """Cancel the RPCs that are not finished within ``seconds``."""
        self.close_port()
        assert self._stopping is not None
        await asyncio.wait([self._stopping], timeout=seconds)
        if not self._stopping.done():
            # gRPC crashes if the grace period of one ``stop`` ends after another one has freed the
            # server: only the first one has such a period, and this one cancels at once.
            await self._aio_server.stop(None)
        await self._stopping


def _credentials(certificate: str, key: str) -> grpc.ServerCredentials:
    pair = Path(key).read_bytes(), Path(certificate).read_bytes()
    return grpc.ssl_server_credentials([pair])
