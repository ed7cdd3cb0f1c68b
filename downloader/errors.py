"""Everything that can stop a download, and the exit code of each.

DownloadError
├── InvalidSettingError        a flag, a variable or the spec is no valid value
├── SourceError
│   ├── NotAuthorisedError     the source wants a token, another one, or accepted terms
│   ├── NotFoundError          there is no such repository, revision, folder, object or model
│   ├── UnsuitableModelError   it is there, but it is nothing that may be served
│   └── NetworkError           the source cannot be reached or fails
│       └── TransientError     this time; the next try may succeed
├── StorageError               the target volume refuses
│   ├── NoSpaceError           it is too small
│   └── LeaseLostError         another download took this one for dead
└── CorruptFileError           a file is not the one that the source or the marker lists
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from downloader.workers import InterruptedRunError
from modelstore.errors import InvalidNameError


class DownloadError(Exception):
    """Base of every error of this package; its text is one sentence for the operator."""


class InvalidSettingError(DownloadError):
    """A flag, an environment variable or the spec is no valid value."""


class SourceError(DownloadError):
    """The source does not give the model."""


class NotAuthorisedError(SourceError):
    """The source wants a token, another one, or accepted terms."""


class NotFoundError(SourceError):
    """There is no such repository, revision, folder, object or published model."""


class UnsuitableModelError(SourceError):
    """The model is there, but it is nothing that may be served."""


class NetworkError(SourceError):
    """The source cannot be reached or fails."""


class TransientError(NetworkError):
    """It failed this time; ``retry_after`` is how many seconds the server asks to wait."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(DownloadError):
    """The target volume refuses to hold the model."""

    @classmethod
    def from_os(cls, error: OSError) -> StorageError:
        """Say in one sentence what the operating system refused."""
        reason = f"{error.filename or 'the target'}: {error.strerror or error}"
        return NoSpaceError(reason) if error.errno in _FULL else StorageError(reason)


class NoSpaceError(StorageError):
    """The target volume is too small."""


class LeaseLostError(StorageError):
    """Another download of the same name took this one for dead and goes on in its place."""


class CorruptFileError(DownloadError):
    """A file is not the one that the source or the marker lists."""


_FULL = (errno.ENOSPC, errno.EDQUOT)

# Part of the interface: a Job's podFailurePolicy tells a wrong token from a network that fails.
EXIT_CODES: Mapping[type[BaseException], int] = {
    InvalidSettingError: 2,
    InvalidNameError: 2,
    NotAuthorisedError: 3,
    NotFoundError: 4,
    NoSpaceError: 5,
    CorruptFileError: 6,
    NetworkError: 7,
    UnsuitableModelError: 8,
    InterruptedRunError: 9,
}


def exit_code(error: BaseException) -> int:
    """The code of the most particular class of ``error`` that has one, else 1."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)
