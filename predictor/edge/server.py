"""KServe's ``ModelServer``, with accurate readiness and a graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi.exceptions import FastAPIDeprecationWarning
from kserve.model_server import app
from starlette.types import ASGIApp

from predictor.edge.access_control import AccessRules
from predictor.edge.application import Application
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.descriptors import raise_limit
from predictor.edge.download_wait import is_downloaded, wait_for_download
from predictor.edge.draining import Drain
from predictor.edge.kserve_internals import HookedModelServer
from predictor.edge.repository import (
    AwaitedModels,
    RepositoryExtension,
    open_repository,
)
from predictor.edge.tracing import Tracing
from predictor.errors import ModelLoadError
from predictor.intake.pool import READERS
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.edge.grpc_server import GrpcServer
    from predictor.loading.loader import OpenEngine

logger = logging.getLogger(__name__)

# A client may have sent a request on an idle connection before it knew of the shutdown.
_QUIET_SECONDS = 1.0
# Time for the last responses to leave the process once no request is in flight.
_FLUSH_SECONDS = 5.0


class DiffusionServer(HookedModelServer):
    """Serves models over HTTP until a signal, or until a required model fails to load.

    ``grpc_port`` is None without gRPC.
    """

    def __init__(
        self,
        model_name: str,
        settings: Settings,
        open_engine: OpenEngine | None = None,
        *,
        http_port: int,
        timeout_keep_alive: int,
        ssl_certfile: str | None,
        ssl_keyfile: str | None,
        grpc_port: int | None = None,
    ) -> None:
        rules = AccessRules.read(settings)
        self._open_models = partial(open_repository, model_name, settings, open_engine)
        must_wait = settings.max_download_wait_seconds > 0 and not is_downloaded(settings)
        models = AwaitedModels() if must_wait else self._open_models()
        super().__init__(
            http_port=http_port,
            enable_grpc=False,
            workers=1,
            timeout_keep_alive=timeout_keep_alive,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            registered_models=models,
        )
        self._settings = settings
        self._tracing = Tracing.from_environment(service_name=model_name)
        self._load_error: ModelLoadError | None = None
        self._ending: asyncio.Task[None] | None = None
        self._preloading: asyncio.Task[None] | None = None
        self._drain = Drain()
        self._grpc_port = grpc_port
        self._grpc: GrpcServer | None = None
        self.dataplane = DiffusionDataPlane(
            models, self._drain, waits_for_load=settings.wait_for_load
        )
        self.model_repository_extension = RepositoryExtension(model_registry=models)
        self._application = Application(
            app,
            self.dataplane,
            self.model_repository_extension,
            rules,
            self._drain,
            model_name,
            has_grpc=grpc_port is not None,
        )

    def serve(self) -> None:
        """Run until a signal.

        Raises:
            ModelLoadError: a model that readiness requires failed to load.
        """
        # KServe uses a deprecated FastAPI class; operators cannot act on the warning.
        warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)
        raise_limit()
        self.start(list(self.registered_models.models.values()))
        READERS.close()
        self._close_engines()
        self._tracing.close()
        if self._load_error is not None:
            raise self._load_error

    def register_signal_handler(self) -> None:
        """Do nothing: KServe's handler would unload the models while requests are in flight."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Handle signals and load the models while the server answers."""
        served = self._application.wrapped(self._tracing)
        self.configure_http(
            host=self._settings.host,
            app=served,
            add_exception_handlers=self._application.add_error_responses,
        )
        self._open_grpc(served)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._begin_end, self._clients_leave)
        loop.add_signal_handler(signal.SIGTERM, self._begin_end, asyncio.sleep)
        self._preloading = asyncio.create_task(self._preload())
        try:
            yield
        finally:
            self._preloading.cancel()
            if self._grpc is not None:
                await self._grpc.stop(_FLUSH_SECONDS)

    def _open_grpc(self, served: ASGIApp) -> None:
        if self._grpc_port is None:
            return
        from predictor.edge.grpc_server import GrpcServer

        self._grpc = GrpcServer(served, max_bytes=self._settings.max_body_bytes)
        self._grpc.bind(self._settings.host, self._grpc_port, self.ssl_certfile, self.ssl_keyfile)
        # KServe adds its routes to the application when it opens the HTTP port.
        self._grpc.start_after(lambda: self.is_open)

    def _has_clients(self) -> bool:
        return self.has_connections() or (self._grpc is not None and self._grpc.is_busy)

    async def _preload(self) -> None:
        try:
            if isinstance(self.registered_models, AwaitedModels):
                await wait_for_download(self._settings)
                self.replace_models(self._open_models())
            residency = self.registered_models.residency
            # Now, while the load uses one core: their imports would slow down the first requests.
            asyncio.get_running_loop().run_in_executor(None, _start_readers)
            await residency.prepare()
            await residency.preload(self.registered_models.preload_names)
        except ModelLoadError as error:
            # Otherwise the pod would never become ready.
            self._load_error = error
            self._refuse_loads()
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
        self._stop_loads()
        # A pod that was never ready gets no requests from the cluster.
        if self.dataplane.is_preloaded:
            await pause(self._settings.drain_seconds)
        await self._close()

    def _stop_loads(self) -> None:
        """Answer the requests that wait for a load: it could take longer than the shutdown."""
        if self._preloading is not None:
            self._preloading.cancel()
        self._refuse_loads()

    def _refuse_loads(self) -> None:
        if not isinstance(self.registered_models, AwaitedModels):
            self.registered_models.residency.refuse_loads()

    async def _close(self) -> None:
        """Close the port; requests in flight have ``shutdown_seconds`` to finish."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.shutdown_seconds
        self._drain.is_draining = True
        self.close_port()
        if self._grpc is not None:
            self._grpc.close_port()
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
                await self._drain.wait_until_quiet(self._has_clients, quiet_seconds)
        except TimeoutError:
            return False
        return True


def _start_readers() -> None:
    # A body that needs a process which has not started starts it, or gets the error.
    with contextlib.suppress(OSError):
        READERS.start()
