"""The private parts of kserve 0.21 and uvicorn 0.54 that this server needs.

No other module touches them, except ``connection.py``, which extends uvicorn's protocol class.
Neither library promises to keep these names: check each one against the source of a new version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
from fastapi import FastAPI
from kserve import ModelRepository, ModelServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from starlette.types import ASGIApp

from predictor.edge.connection import BoundedConnection


class HookedModelServer(ModelServer):  # type: ignore[misc]  # kserve ships no types
    """KServe's server, with hooks for its start and its end."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Override this to run code before the port opens and after the server ends."""
        raise NotImplementedError

    async def _serve(self) -> None:
        """``ModelServer.start`` runs this on the event loop, once its HTTP server exists."""
        async with self.running():
            await super()._serve()

    def configure_http(
        self, *, host: str, app: ASGIApp, add_exception_handlers: Callable[[FastAPI], None]
    ) -> None:
        """Set what KServe's constructor does not take; call it from ``running``."""
        http = self._rest_server
        http.config.host = host
        http.config.app = app
        # Uvicorn would take the address of a caller on this host, such as queue-proxy, from a
        # header that any caller can send.
        http.config.proxy_headers = False
        http.config.http = BoundedConnection
        # KServe's own handlers log a trace for each failed probe and show exception texts.
        http._add_exception_handlers = add_exception_handlers
        # KServe's middleware measures the CPU time and matches the routes of each request again,
        # a fifth of the cost of a refusal, for a log line that ``TelemetryMiddleware`` has.
        http._add_middlewares = lambda app: None
        # Uvicorn would install handlers of its own and close the port at once.
        self._uvicorn.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]

    def replace_models(self, models: ModelRepository) -> None:
        """Serve these models instead of those that the server started with."""
        self.registered_models = models
        self.dataplane._model_registry = models
        self.model_repository_extension._model_registry = models
        self._register_and_check_atleast_one_model_is_ready(list(models.models.values()))

    @property
    def is_open(self) -> bool:
        """Whether the server accepts connections; by then KServe has added all routes."""
        return self._uvicorn.started

    def has_connections(self) -> bool:
        """Whether a client is connected, idle or not."""
        return bool(self._uvicorn.server_state.connections)

    def close_port(self) -> None:
        """Refuse new connections; open ones stay."""
        for listener in self._uvicorn.servers if self._uvicorn.started else ():
            listener.close()

    def stop_within(self, seconds: float) -> None:
        """Stop the server; responses that are still being sent have ``seconds`` to finish."""
        # Uvicorn declares whole seconds and hands the value to ``asyncio.wait_for``.
        self._uvicorn.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]
        self._uvicorn.should_exit = True

    @property
    def _uvicorn(self) -> uvicorn.Server:
        server: uvicorn.Server = self._rest_server._server
        return server


class OpenRepositoryExtension(ModelRepositoryExtension):  # type: ignore[misc]
    """KServe's repository extension, with a public name for its registry."""

    @property
    def model_registry(self) -> Any:
        """The models that the server answers for now."""
        return self._model_registry
