"""The process: the API, the worker and the sender of webhooks, and how they stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
from jobs.api.openapi import openapi_route
from jobs.api.service import Service
from jobs.api.short_routes import ShortRoutes
from jobs.api_keys import ApiKeys
from jobs.errors import BucketError, BucketRefusedError, StartError
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.webhook_sender import WebhookSender
from jobs.worker import Worker

if TYPE_CHECKING:
    from jobs.bucket import Bucket

logger = logging.getLogger(__name__)

# As in the predictor: longer than proxies keep idle connections, or they send into a closed one.
_KEEP_ALIVE_SECONDS = 65
# For responses in flight after a signal; waits and streams end at once.
_RESPONSE_SECONDS = 5


def serve(settings: Settings) -> bool:
    """Serve until a signal, then drain; False if the worker or the sender ended by a bug.

    Raises:
        StartError: the storage cannot be opened, the file of the keys is not valid, or the bucket
            refuses.
    """
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> bool:
    raise_descriptor_limit()
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    bucket = await _open_bucket(settings)
    storage = open_storage(settings)
    client = PredictorClient(settings)
    try:
        await storage.open()
        service = Service(storage, settings, bucket)
        server = _Server(application(service, keys), settings)
        worker = Worker(storage, client, settings, on_crash=server.fail, bucket=bucket)
        sender = WebhookSender(storage, settings, on_crash=server.fail)
        server.on_stop = [worker.stop, service.close]
        server.on_second_signal = [worker.withdraw]
        server.on_start = [worker.start, sender.start]
        await server.serve()
        # Webhooks of the last jobs are sent too.
        await worker.drain()
        await sender.drain()
    finally:
        if bucket:
            bucket.close()
        await client.close()
        await storage.close()
    return not server.has_failed


async def _open_bucket(settings: Settings) -> Bucket | None:
    """The bucket of the settings, if there is one; it need not answer yet."""
    if not settings.bucket_url:
        return None
    from jobs.bucket import Bucket

    bucket = Bucket(settings)
    try:
        await bucket.check()
    except BucketRefusedError as error:
        raise StartError(f"bucket_url: {error}") from None
    except BucketError as error:
        logger.warning("bucket_url: %s", error)
    return bucket


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
        self.on_start: list[Callable[[], None]] = []
        self.on_stop: list[Callable[[], None]] = []
        self.on_second_signal: list[Callable[[], None]] = []
        self.has_failed = False
        self._has_signal = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.on_signal)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then call ``on_start``: a process whose port is in use must claim no jobs."""
        await super().startup(sockets)
        for call in self.on_start:
            call()

    def fail(self) -> None:
        """Shut down, so that Kubernetes starts the container again."""
        self.has_failed = True
        self.stop()

    def stop(self) -> None:
        """Shut down, as after a signal."""
        self.should_exit = True
        for call in self.on_stop:
            call()

    def on_signal(self) -> None:
        """Shut down, and at the second signal do not wait for running jobs."""
        for call in self.on_second_signal if self._has_signal else [self.stop]:
            call()
        self._has_signal = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the event loop: Uvicorn handles none while the worker drains."""
        yield


def application(service: Service, keys: ApiKeys | None = None) -> Starlette:
    """The routes of the API and the probes, for callers with one of the keys."""
    routes = [*JobRoutes(service).routes(), *ShortRoutes(service).routes(), *_probes(service)]
    routes.append(openapi_route(service.settings))
    middleware = [Middleware(AccessMiddleware, keys)] if keys else []
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=exception_handlers())
    # A redirect to the path without its last slash would not be an error of the documented form.
    app.router.redirect_slashes = False
    return app


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
