"""KServe's FastAPI application with the routes and the middleware of this server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp

from predictor.edge.a1111_routes import a1111_routes
from predictor.edge.access_control import AccessMiddleware, AccessRules
from predictor.edge.body_memory import BodyMemory
from predictor.edge.cors import CrossOriginMiddleware
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.draining import Drain, DrainMiddleware
from predictor.edge.error_responses import register_error_responses
from predictor.edge.inference_routes import MODEL_INFER
from predictor.edge.load_wait import LoadWaitMiddleware
from predictor.edge.middleware import (
    BodyLimitMiddleware,
    HangUpMiddleware,
    MetricsMiddleware,
    PiecesMiddleware,
    StreamTypeMiddleware,
)
from predictor.edge.model_list import model_list_routes
from predictor.edge.openapi import OpenApiDocument
from predictor.edge.overload import OverloadMiddleware
from predictor.edge.page_routes import page_routes
from predictor.edge.repository import RepositoryExtension
from predictor.edge.router_errors import MethodMiddleware
from predictor.edge.routes import metadata_routes, repository_routes
from predictor.edge.telemetry import TelemetryMiddleware
from predictor.edge.tracing import Tracing
from predictor.edge.wire_format_routes import wire_format_routes
from predictor.engine import Admission
from predictor.requests import ModelProfile
from predictor.residency import Residency
from predictor.wire_formats import A1111

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded


class Application:
    """The application, and what its middleware asks about the models.

    The models are those of ``data_plane`` at the time of a request. ``has_grpc`` adds the route
    that only RPCs reach.
    """

    def __init__(
        self,
        app: FastAPI,
        data_plane: DiffusionDataPlane,
        extension: RepositoryExtension,
        rules: AccessRules,
        drain: Drain,
        model_name: str,
        *,
        has_grpc: bool,
    ) -> None:
        self._app = app
        self._data_plane = data_plane
        self._settings = rules.settings
        self._drain = drain
        self._paths_off: set[str] = set() if has_grpc else {MODEL_INFER}
        if not self._settings.a1111_api:
            self._paths_off |= {path for one in A1111 for path in one.paths}
        self._add_routes(extension, model_name, has_grpc=has_grpc)
        # FastAPI's documented way.
        app.openapi = OpenApiDocument(  # type: ignore[method-assign]
            app, rules, self._profile_of_only_model, self._names
        )
        self._add_middleware(rules)

    def wrapped(self, tracing: Tracing) -> ASGIApp:
        """The application in the middleware that also sees errors of the application itself."""
        served: ASGIApp = DrainMiddleware(self._app, self._drain)
        served = MetricsMiddleware(served, self._is_served, self._only_model)
        if origins := self._settings.allowed_origins:
            served = CrossOriginMiddleware(served, origins)
        return TelemetryMiddleware(served, tracing)

    def add_error_responses(self, app: FastAPI) -> None:
        """Add the handlers of errors in place of KServe's."""
        register_error_responses(app, self._is_draining)

    def _add_routes(
        self, extension: RepositoryExtension, model_name: str, *, has_grpc: bool
    ) -> None:
        """The first match answers, so all of them precede KServe's."""
        app, data_plane, settings = self._app, self._data_plane, self._settings
        app.include_router(repository_routes(extension))
        app.include_router(model_list_routes(extension))
        app.include_router(wire_format_routes(data_plane, settings, model_name))
        if has_grpc:
            from predictor.edge.grpc_route import model_infer_route

            app.include_router(model_infer_route(data_plane))
        app.include_router(metadata_routes(data_plane.model_metadata))
        if settings.a1111_api:
            app.include_router(a1111_routes(data_plane, extension, settings, model_name))
        if settings.ui:
            app.include_router(page_routes())

    def _add_middleware(self, rules: AccessRules) -> None:
        """A request passes through the last one first."""
        add, settings = self._app.add_middleware, self._settings
        add(PiecesMiddleware)
        add(
            OverloadMiddleware,
            admission_of=self._admission_of,
            is_draining=self._is_draining,
            only_model=self._only_model,
        )
        add(
            LoadWaitMiddleware,
            residency_of=self._residency_of,
            all_wait=self._all_wait,
            is_draining=self._is_draining,
            only_model=self._only_model,
        )
        add(MethodMiddleware)
        add(StreamTypeMiddleware)
        add(HangUpMiddleware)
        add(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, memory=BodyMemory())
        if not rules.are_off:
            add(AccessMiddleware, rules=rules)

    def _names(self) -> list[str]:
        return [*self._data_plane.model_registry.models]

    def _is_served(self, name: str) -> bool:
        return name in self._data_plane.model_registry.models

    def _only_model(self, path: str) -> str | None:
        return None if path in self._paths_off else self._only_name()

    def _only_name(self) -> str | None:
        names = self._names()
        return names[0] if len(names) == 1 else None

    def _profile_of_only_model(self) -> ModelProfile | None:
        name = self._only_name()
        loaded = self._loaded(name) if name else None
        return loaded.profile if loaded else None

    def _admission_of(self, name: str) -> Admission | None:
        loaded = self._loaded(name) if self._is_served(name) else None
        return loaded.engine.admission if loaded else None

    def _loaded(self, name: str) -> Loaded | None:
        loaded: Loaded | None = self._data_plane.model_registry.residency[name].loaded
        return loaded

    def _residency_of(self, name: str) -> Residency | None:
        return self._data_plane.model_registry.residency if self._is_served(name) else None

    def _all_wait(self) -> bool:
        return self._settings.wait_for_load or self._data_plane.model_registry.loads_on_demand

    def _is_draining(self) -> bool:
        return self._drain.is_draining
