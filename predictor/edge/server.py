"""KServe's ``ModelServer``, with the truth about readiness and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import warnings
from typing import Any

from fastapi.exceptions import FastAPIDeprecationWarning
from kserve import ModelServer
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane

from predictor.edge.error_responses import register_error_responses
from predictor.edge.middleware import (
    BodyLimitMiddleware,
    HangUpMiddleware,
    MetricsMiddleware,
    StreamTypeMiddleware,
)
from predictor.edge.repository import OneModel, PublishedModels, RepositoryExtension
from predictor.edge.routes import metadata_routes, repository_routes
from predictor.errors import ModelLoadError
from predictor.settings import Settings

logger = logging.getLogger(__name__)


class _DataPlane(DataPlane):  # type: ignore[misc]  # kserve ships no types
    """KServe's data plane, whose server readiness is a constant True."""

    draining = False
    is_preloaded = False

    async def ready(self) -> bool:
        """Whether this pod should be sent requests: loaded, warm and not on its way out."""
        return self.is_preloaded and not self.draining

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        """KServe asks with the flag set before a prediction, and without it for a probe.

        A draining pod fails its probes and still serves what arrives. A model that is loaded on
        demand takes predictions while it is not ready.
        """
        await self.model_registry.look_for(model_name)
        is_ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        if disable_predictor_health_check:
            return is_ready or self.model_registry.loads_on_demand
        return is_ready and not self.draining

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """What a loaded model says of itself; KServe's own answer has empty lists."""
        await self.model_registry.look_for(model_name)
        metadata: dict[str, Any] = self.get_model_from_registry(model_name).metadata()
        return metadata


class DiffusionServer(ModelServer):  # type: ignore[misc]
    """Serves models over HTTP until SIGTERM, or until one that must be loaded turns out not to."""

    def __init__(
        self,
        repository: OneModel | PublishedModels,
        settings: Settings,
        *,
        http_port: int,
        enable_grpc: bool,
    ) -> None:
        super().__init__(
            http_port=http_port,
            enable_grpc=enable_grpc,
            workers=1,
            registered_models=repository,
            grace_period=settings.shutdown_seconds,
        )
        self._settings = settings
        self._repository = repository
        self._residency = repository.residency
        self._load_error: ModelLoadError | None = None
        self.dataplane = _DataPlane(model_registry=repository)
        self.model_repository_extension = RepositoryExtension(model_registry=repository)
        app.include_router(repository_routes(self.model_repository_extension))
        app.include_router(metadata_routes(self.dataplane.model_metadata))
        app.add_middleware(StreamTypeMiddleware)
        app.add_middleware(HangUpMiddleware)
        app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
        app.add_middleware(MetricsMiddleware, is_served=repository.models.__contains__)

    def serve(self) -> None:
        """Run until told to stop.

        Raises:
            ModelLoadError: a model that the pod is not ready without could not be loaded.
        """
        # KServe answers through a FastAPI class that is deprecated: not for our log to say.
        warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)
        self.start(list(self._repository.models.values()))
        self._residency.close()
        if self._load_error is not None:
            raise self._load_error

    def register_signal_handler(self) -> None:
        """Left out: KServe's handler unloads the models while requests are still under way."""

    async def _serve(self) -> None:
        http = self._rest_server
        http.config.host = self._settings.host
        # KServe's own handlers log a trace for each failed probe and show exception texts.
        http._add_exception_handlers = register_error_responses
        # Uvicorn would install handlers of its own and close the port at once.
        http._server.capture_signals = contextlib.nullcontext
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loading = asyncio.create_task(self._preload())
        try:
            await super()._serve()
        finally:
            loading.cancel()

    async def _preload(self) -> None:
        try:
            await self._residency.prepare()
            await self._residency.preload(self._repository.preload_names)
        except ModelLoadError as error:
            # Left alone, the pod would stay not ready for ever.
            self._load_error = error
            self._stop()
        else:
            self.dataplane.is_preloaded = True

    def _drain(self) -> None:
        """Leave the endpoints first, close the port later: requests arrive until both are known."""
        if not self.dataplane.draining:
            logger.info("draining for %s s", self._settings.drain_seconds)
            self.dataplane.draining = True
            asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        """Close the port; requests under way have ``shutdown_seconds`` to end."""
        self._rest_server._server.should_exit = True
