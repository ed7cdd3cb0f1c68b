"""KServe's ``ModelServer``, with accurate readiness and a graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudevents.sdk.converters.util import has_binary_headers
from fastapi.exceptions import FastAPIDeprecationWarning
from kserve import ModelRepository
from kserve.constants.constants import PredictorProtocol
from kserve.model_server import app
from kserve.protocol.dataplane import JSON_HEADERS, DataPlane

from predictor.edge.access_control import AccessMiddleware, AccessRules
from predictor.edge.download_wait import wait_for_download
from predictor.edge.draining import Drain, DrainMiddleware
from predictor.edge.error_responses import register_error_responses
from predictor.edge.kserve_internals import HookedModelServer
from predictor.edge.middleware import (
    BodyLimitMiddleware,
    HangUpMiddleware,
    MetricsMiddleware,
    StreamTypeMiddleware,
)
from predictor.edge.repository import (
    AwaitedModels,
    RepositoryExtension,
    is_published,
    open_repository,
)
from predictor.edge.routes import describe_predict, metadata_routes, repository_routes
from predictor.errors import ModelLoadError
from predictor.protocol.accept import JSON
from predictor.protocol.json_body import read_json
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.loading.loader import OpenEngine

logger = logging.getLogger(__name__)

# A client may have sent a request on an idle connection before it knew of the shutdown.
_QUIET_SECONDS = 1.0
# Time for the last responses to leave the process once no request is in flight.
_FLUSH_SECONDS = 5.0


class _DataPlane(DataPlane):  # type: ignore[misc]  # kserve ships no types
    """KServe's data plane, which always reports the server as ready."""

    is_preloaded = False

    def __init__(self, models: ModelRepository, drain: Drain) -> None:
        super().__init__(model_registry=models)
        self._drain = drain

    async def ready(self) -> bool:
        """Whether the pod should get requests: loaded, warmed up and not draining."""
        return self.is_preloaded and not self._drain.is_draining

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        """KServe sets the flag before a prediction, and not for a probe.

        A draining pod fails its probes and still serves requests. A model that is loaded on demand
        accepts predictions while it is not ready.
        """
        await self.model_registry.look_for(model_name)
        is_ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        if disable_predictor_health_check:
            return is_ready or self.model_registry.loads_on_demand
        return is_ready and not self._drain.is_draining

    def decode(
        self,
        body: bytes,
        headers: dict[str, str],
        protocol_version: str = PredictorProtocol.REST_V1.value,
        model_name: str | None = None,
    ) -> Any:
        """Parse the JSON of a v1 body here: KServe rejects a byte order mark and checks no depth.

        The data of a binary CloudEvent are only checked, as KServe parses them itself.
        """
        is_v1 = protocol_version == PredictorProtocol.REST_V1.value
        is_binary_event = has_binary_headers(headers)
        if is_v1 and (is_binary_event or headers.get("content-type", JSON) in JSON_HEADERS):
            document = read_json(body)
            body = body if is_binary_event else document
        return super().decode(body, headers, protocol_version, model_name)

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """The metadata of a loaded model; KServe's own response has empty lists."""
        await self.model_registry.look_for(model_name)
        metadata: dict[str, Any] = self.get_model_from_registry(model_name).metadata()
        return metadata


class DiffusionServer(HookedModelServer):
    """Serves models over HTTP until a signal, or until a required model fails to load."""

    def __init__(
        self,
        model_name: str,
        settings: Settings,
        open_engine: OpenEngine | None = None,
        *,
        http_port: int,
        enable_grpc: bool,
    ) -> None:
        rules = AccessRules.read(settings)
        self._open_models = partial(open_repository, model_name, settings, open_engine)
        must_wait = settings.max_download_wait_seconds > 0 and not is_published(settings)
        models = AwaitedModels() if must_wait else self._open_models()
        super().__init__(
            http_port=http_port,
            enable_grpc=enable_grpc,
            workers=1,
            registered_models=models,
        )
        self._settings = settings
        self._load_error: ModelLoadError | None = None
        self._ending: asyncio.Task[None] | None = None
        self._drain = Drain()
        self.dataplane = _DataPlane(models, self._drain)
        self.model_repository_extension = RepositoryExtension(model_registry=models)
        app.include_router(repository_routes(self.model_repository_extension))
        app.include_router(metadata_routes(self.dataplane.model_metadata))
        describe_predict(app)
        app.add_middleware(StreamTypeMiddleware)
        app.add_middleware(HangUpMiddleware)
        app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
        if not rules.are_off:
            app.add_middleware(AccessMiddleware, rules=rules)

    def serve(self) -> None:
        """Run until a signal.

        Raises:
            ModelLoadError: a model that readiness requires failed to load.
        """
        # KServe uses a deprecated FastAPI class; operators cannot act on the warning.
        warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)
        self.start(list(self.registered_models.models.values()))
        self._close_engines()
        if self._load_error is not None:
            raise self._load_error

    def register_signal_handler(self) -> None:
        """Do nothing: KServe's handler would unload the models while requests are in flight."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Handle signals and load the models while the server answers."""
        self.configure_http(
            host=self._settings.host,
            app=MetricsMiddleware(DrainMiddleware(app, self._drain), self._is_served),
            add_exception_handlers=register_error_responses,
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._begin_end, self._clients_leave)
        loop.add_signal_handler(signal.SIGTERM, self._begin_end, asyncio.sleep)
        loading = asyncio.create_task(self._preload())
        try:
            yield
        finally:
            loading.cancel()

    def _is_served(self, name: str) -> bool:
        return name in self.registered_models.models

    async def _preload(self) -> None:
        try:
            if isinstance(self.registered_models, AwaitedModels):
                await wait_for_download(self._settings)
                self.replace_models(self._open_models())
            residency = self.registered_models.residency
            await residency.prepare()
            await residency.preload(self.registered_models.preload_names)
        except ModelLoadError as error:
            # Otherwise the pod would never become ready.
            self._load_error = error
            self._ending = self._ending or asyncio.create_task(self._close())
        else:
            self.dataplane.is_preloaded = True

    def _begin_end(self, pause: Callable[[float], Awaitable[object]]) -> None:
        """Begin the shutdown; further signals change nothing."""
        self._ending = self._ending or asyncio.create_task(self._end(pause))

    async def _end(self, pause: Callable[[float], Awaitable[object]]) -> None:
        """Fail the probes first and close the port later: requests arrive until clients notice."""
        logger.info("draining for at most %g s", self._settings.drain_seconds)
        self._drain.is_draining = True
        await pause(self._settings.drain_seconds)
        await self._close()

    async def _close(self) -> None:
        """Close the port; requests in flight have ``shutdown_seconds`` to finish."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.shutdown_seconds
        self._drain.is_draining = True
        self.close_port()
        if not await self._clients_leave(self._settings.shutdown_seconds, _QUIET_SECONDS):
            # In a thread, because it waits for a step; first, so that no caller is logged as gone.
            asyncio.get_running_loop().run_in_executor(None, self._close_engines)
            # 0 if only idle connections are left.
            if unfinished := self._drain.cut():
                logger.warning(
                    "shutdown_seconds=%d ran out: %d unfinished requests get 503",
                    self._settings.shutdown_seconds,
                    unfinished,
                )
        # Responses to slow clients may use the rest of the time.
        self.stop_within(max(_FLUSH_SECONDS, deadline - now()))

    def _close_engines(self) -> None:
        if not isinstance(self.registered_models, AwaitedModels):
            self.registered_models.residency.close()

    async def _clients_leave(self, seconds: float, quiet_seconds: float = math.inf) -> bool:
        """Whether, within ``seconds``, all clients leave or are idle for ``quiet_seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._drain.wait_until_quiet(self.has_connections, quiet_seconds)
        except TimeoutError:
            return False
        return True
