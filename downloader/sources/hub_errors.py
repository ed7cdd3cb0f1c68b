"""What the hub's refusals mean for the operator: which page to visit, which Secret to fix."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from downloader.errors import (
    CorruptFileError,
    DownloadError,
    NetworkError,
    NotAuthorisedError,
    NotFoundError,
    StorageError,
)
from downloader.spec import HubSpec

# ``OSError`` holds the library's own errors and those of the volume it writes to, ``ValueError`` an
# answer that is no JSON.
HUB_ERRORS = (httpx2.HTTPError, OSError, ValueError)


def translated(error: Exception, spec: HubSpec, endpoint: str) -> DownloadError:
    """The error to raise in place of ``error``; repeats no address or header of the request."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HUB_ERRORS):
        # The library looked for a local copy after the request had failed.
        return translated(error.__cause__, spec, endpoint)
    if isinstance(error, HfHubHTTPError):
        return _refused(error, spec, _page(spec, endpoint))
    if isinstance(error, OfflineModeIsEnabled):
        return NetworkError(f"{spec.uri}: HF_HUB_OFFLINE forbids to ask the hub")
    if isinstance(error, ValueError | FileMetadataError):
        return NetworkError(
            f"{spec.uri}: {urlsplit(endpoint).hostname} does not answer as a hub does"
        )
    if isinstance(error, httpx2.HTTPError | LocalEntryNotFoundError):
        return NetworkError(
            f"{spec.uri}: {urlsplit(endpoint).hostname} cannot be reached ({type(error).__name__})"
        )
    return _from_volume(error, spec)


def _refused(error: HfHubHTTPError, spec: HubSpec, page: str) -> DownloadError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return NotAuthorisedError(
            f"{spec.uri} is gated: accept its terms at {page} and {_fix_token('that account')}"
        )
    if isinstance(error, RepositoryNotFoundError):
        kind = NotAuthorisedError if status in (401, 403) else NotFoundError
        return kind(
            f"{spec.uri}: either there is no such repository or it is private: "
            f"look at {page} and {_fix_token('an account that can read it')}"
        )
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(
            f"{spec.uri}: the repository has no revision {spec.revision!r}: look at {page}"
        )
    if status in (401, 403):
        return NotAuthorisedError(
            f"{spec.uri}: the hub answered {status}: look at {page} and "
            f"{_fix_token('an account that can read it')}"
        )
    if status == 404:
        return NotFoundError(f"{spec.uri}: the hub answered 404: look at {page}")
    return NetworkError(f"{spec.uri}: the hub answered {status}")


def _fix_token(owner: str) -> str:
    refused = "was refused" if get_token() else "is not set"
    return f"put a token of {owner} into the Secret (HF_TOKEN, which {refused})"


def _page(spec: HubSpec, endpoint: str) -> str:
    address = urlsplit(endpoint)
    port = f":{address.port}" if address.port else ""
    return f"{address.scheme}://{address.hostname}{port}{address.path}/{spec.repository}"


def _from_volume(error: Exception, spec: HubSpec) -> DownloadError:
    if not isinstance(error, OSError) or error.errno is None:
        # The library's own check of a length, the only plain OSError that it raises.
        return CorruptFileError(f"{spec.uri}: a file arrived with another size than the hub lists")
    return StorageError.from_os(error)
