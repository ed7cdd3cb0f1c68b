"""Refuses calls before their body is read while the queue is full, so that overload stays cheap."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.edge.error_responses import response_to
from predictor.edge.inference_routes import called_model
from predictor.engine import Admission
from predictor.errors import OverloadedError


class OverloadMiddleware:
    """Check for one place in the queue of the model; a call of more pictures is checked later.

    ``admission_of`` returns None for a model that is not in memory. See ``called_model`` for
    ``only_model``; if there are several models, the body may name one of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        admission_of: Callable[[str], Admission | None],
        is_draining: Callable[[], bool],
        only_model: Callable[[str], str | None],
    ) -> None:
        self._app = app
        self._admission_of = admission_of
        self._is_draining = is_draining
        self._only_model = only_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call with 429 if the engine has no place for a picture."""
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        name = called_model(scope, self._only_model)
        admission = self._admission_of(name) if name else None
        try:
            if admission is not None:
                admission.check()
        except OverloadedError as error:
            return response_to(error, is_draining=self._is_draining())
        return None
