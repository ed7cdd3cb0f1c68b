"""Cross-origin requests from browsers: Starlette's middleware, with errors as elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from predictor.protocol.encode import RESPONSE_HEADERS

# Browsers hide other headers of a response from the page.
EXPOSED = (
    *(*RESPONSE_HEADERS, "retry-after", "x-request-id", "www-authenticate", "etag"),
    *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"),
)


class CrossOriginMiddleware(CORSMiddleware):
    """Answers preflight requests itself, and lets the pages of ``origins`` read responses.

    It wraps the whole application, so that they can read its errors too.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Refuse an origin, a method or a header with a sentence."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if name[:8] != "content-"}
        error = f"cors_origins does not allow this: {bytes(response.body).decode()}"
        return JSONResponse({"error": error}, response.status_code, headers=kept)
