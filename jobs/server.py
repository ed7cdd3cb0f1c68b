"""The process: the API, the worker and the sender of webhooks, and how they stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from jobs.api.access import AccessMiddleware
from jobs.api.connection import BoundedConnection, raise_descriptor_limit
from jobs.api.error_responses import exception_handlers
from jobs.api.job_routes import JobRoutes
from jobs.api.metrics import metrics_text
from jobs.api.service import Service
from jobs.api.short_routes import ShortRoutes
from jobs.api_keys import ApiKeys
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.webhook_sender import WebhookSender
from jobs.worker import Worker

# As in the predictor: longer than proxies keep idle connections, or they send into a closed one.
_KEEP_ALIVE_SECONDS = 65
# For responses in flight after a signal; waits and streams end at once.
_RESPONSE_SECONDS = 5


def serve(settings: Settings) -> bool:
    """Serve until a signal, then drain; False if the worker or the sender ended by a bug.

    Raises:
        StartError: the storage cannot be opened, or the file of the keys is not valid.
    """
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> bool:
    raise_descriptor_limit()
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    storage = open_storage(settings)
    client = PredictorClient(settings)
    try:
        await storage.open()
        service = Service(storage, settings)
        server = _Server(application(service, keys), settings)
        worker = Worker(storage, client, settings, on_crash=server.fail)
        sender = WebhookSender(storage, settings, on_crash=server.fail)
        server.on_stop = [worker.stop, service.close]
        worker.start()
        sender.start()
        await server.serve()
        # Webhooks of the last jobs are sent too.
        await worker.drain()
        await sender.drain()
    finally:
        await client.close()
        await storage.close()
    return not server.has_failed


class _Server(uvicorn.Server):
    """Uvicorn, which also calls ``on_stop`` on the event loop as soon as a signal arrives."""

    def __init__(self, app: Starlette, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=BoundedConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_RESPONSE_SECONDS,
            )
        )
        self.on_stop: list[Callable[[], None]] = []
        self.has_failed = False
        self._loop = asyncio.get_running_loop()

    def fail(self) -> None:
        """Shut down, so that Kubernetes starts the container again."""
        self.has_failed = True
        self.stop()

    def stop(self) -> None:
        """Shut down, as after a signal."""
        self.should_exit = True
        for call in self.on_stop:
            call()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal at any point of the program.

        Uvicorn would raise the signal again before the worker has drained.
        """
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._loop.call_soon_threadsafe(self.stop)


def application(service: Service, keys: ApiKeys | None = None) -> Starlette:
    """The routes of the API and the probes, for callers with one of the keys."""
    routes = [*JobRoutes(service).routes(), *ShortRoutes(service).routes(), *_probes(service)]
    middleware = [Middleware(AccessMiddleware, keys)] if keys else []
    return Starlette(routes=routes, middleware=middleware, exception_handlers=exception_handlers())


def _probes(service: Service) -> list[Route]:
    """The probes and the metrics, with the paths of the predictor."""

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        await service.storage.check()
        return JSONResponse({"ready": True})

    async def metrics(_: Request) -> Response:
        models = service.settings.model_names
        states = {model: await service.storage.state(model) for model in models}
        webhooks = await service.storage.webhook_state()
        return PlainTextResponse(metrics_text(states, webhooks))

    return [
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/metrics", metrics),
    ]
