"""A stored picture as a file: ETag, conditional requests and ranges (RFC 9110)."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jobs.job import StoredPicture

# Longer numbers are far beyond any picture, and slow to convert.
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def picture_response(request: Request, picture: StoredPicture, content: bytes) -> Response:
    """The file, a part of it (206), or nothing if the caller has it already (304)."""
    etag = f'"{picture.digest}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        # A picture never changes, but its URL is only for those who know it.
        "cache-control": "private, max-age=3600, immutable",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    part = _range_of(request, etag, len(content))
    if part is None:
        return Response(content, media_type=picture.media_type, headers=headers)
    if not part:
        headers["content-range"] = f"bytes */{len(content)}"
        # The error is about one request, not about the picture.
        headers["cache-control"] = "no-store"
        reason = f"Range: the picture has {len(content)} bytes"
        return JSONResponse({"error": reason}, 416, headers)
    headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
    return Response(
        content[part.start : part.stop], 206, media_type=picture.media_type, headers=headers
    )


def _matches(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names the file; weak comparison, section 13.1.2."""
    if header is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return bool(tags & {etag, "*"})


def _range_of(request: Request, etag: str, size: int) -> range | None:
    """The requested bytes, an empty range if there are none, or None for the whole file.

    Several ranges, units other than bytes and invalid ranges are ignored, as section 14.2 permits.
    """
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if not match or request.method != "GET":
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first:
        end = min(int(last) + 1, size) if last else size
        return None if last and int(last) < int(first) else range(int(first), end)
    return range(max(0, size - int(last)), size) if last else None
