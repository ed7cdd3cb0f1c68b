"""Errors of the hub as sentences for the operator: which page to visit, which Secret to fix."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from downloader.errors import (
    DownloadError,
    NetworkError,
    NotAuthorisedError,
    NotFoundError,
    TransientError,
)
from downloader.sources.http import is_transient, not_reached, retry_after
from downloader.spec import HubSpec

# ``OSError`` covers the library's own errors; the others mean an answer that is not JSON or lacks a
# field that the library reads unchecked.
HUB_ERRORS = (httpx2.HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError)
_LONGEST_REASON = 300


def translated(
    error: Exception, spec: HubSpec, endpoint: str, token: str | None, path: str = ""
) -> DownloadError:
    """The error to raise in place of ``error``; contains no address or header of the request.

    ``path`` is the file that was requested, if it was one.
    """
    if isinstance(error, HfHubHTTPError):
        refused = _refused(error, spec, _page(spec, endpoint), has_token=bool(token))
        if path and type(refused) is NotFoundError and isinstance(error, EntryNotFoundError):
            refused = NotFoundError(f"{spec.uri}: the hub lists {path} but does not have it (404)")
        refused.args = (f"{refused}{_reason(error, token)}",)
        return refused
    if isinstance(error, OfflineModeIsEnabled):
        return NetworkError(f"{spec.uri}: HF_HUB_OFFLINE is set, so the hub cannot be reached")
    if isinstance(error, httpx2.HTTPError):
        unreached = not_reached(error, str(urlsplit(endpoint).hostname))
        return type(unreached)(f"{spec.uri}: {unreached}")
    return NetworkError(f"{spec.uri}: {urlsplit(endpoint).hostname} does not answer like a hub")


def _reason(error: HfHubHTTPError, token: str | None) -> str:
    """The hub's own reason as a clause, on one line and without the token."""
    text = " ".join((error.server_message or "").split())
    if token:
        text = text.replace(token, "***")
    return f" (the hub says: {text[:_LONGEST_REASON]})" if text else ""


def _refused(error: HfHubHTTPError, spec: HubSpec, page: str, *, has_token: bool) -> DownloadError:
    status = error.response.status_code
    secret = f"the Secret (HF_TOKEN, which {'was refused' if has_token else 'is not set'})"
    if isinstance(error, GatedRepoError):
        return NotAuthorisedError(
            f"{spec.uri} is gated: accept its terms at {page} and put a token of that account into "
            f"{secret}"
        )
    readable = f"put a token of an account that can read it into {secret}"
    if isinstance(error, RepositoryNotFoundError):
        kind = NotAuthorisedError if status in (401, 403) else NotFoundError
        return kind(
            f"{spec.uri}: the repository does not exist or is private: check {page} and {readable}"
        )
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(
            f"{spec.uri}: the repository has no revision {spec.revision!r}: check {page}"
        )
    if status in (401, 403):
        return NotAuthorisedError(
            f"{spec.uri}: the hub answered {status}: check {page} and {readable}"
        )
    if status == 404:
        return NotFoundError(f"{spec.uri}: the hub answered 404: check {page}")
    message = f"{spec.uri}: the hub answered {status}"
    if is_transient(status):
        return TransientError(message, retry_after(error.response.headers))
    return NetworkError(message)


def _page(spec: HubSpec, endpoint: str) -> str:
    address = urlsplit(endpoint)
    port = f":{address.port}" if address.port else ""
    return f"{address.scheme}://{address.hostname}{port}{address.path}/{spec.repository}"
