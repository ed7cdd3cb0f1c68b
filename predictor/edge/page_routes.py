"""The routes of the page at ``/ui``."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from predictor.ui.page_files import START, PageFile, read_page_files

# The page loads nothing from other hosts and runs no inline script. ``blob:`` shows pictures that
# the page has in memory. https://www.w3.org/TR/CSP3/
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # The browser asks each time whether its copy is current: the files change with the server.
    "cache-control": "no-cache",
}


def page_routes() -> APIRouter:
    """The page and its files. Its links are relative, so it also works below a path prefix."""
    routes = APIRouter()
    files = read_page_files()

    @routes.get("/ui", response_class=HTMLResponse)
    async def page(request: Request) -> Response:
        return _response(request, files[START])

    @routes.get("/ui/", include_in_schema=False)
    async def page_with_slash() -> Response:
        return RedirectResponse("../ui")

    @routes.get("/ui/{file}", response_class=Response, responses={404: {}})
    async def page_file(request: Request, file: str) -> Response:
        if file not in files or file == START:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _response(request, files[file])

    return routes


def _response(request: Request, file: PageFile) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
