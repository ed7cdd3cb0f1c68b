"""Every error that ends a run, and the exit code of each.

DownloadError
├── InvalidSettingError        a flag, a variable or the spec is not valid
├── SourceError
│   ├── NotAuthorisedError     the source requires a token, another token, or accepted terms
│   ├── NotFoundError          the repository, revision, folder, object or model does not exist
│   ├── UnsuitableModelError   the model exists but cannot be served
│   └── NetworkError           the source cannot be reached or fails
│       └── TransientError     this attempt failed; the next one may succeed
├── StorageError               the target volume refuses an operation
│   ├── NoSpaceError           the volume is too small
│   └── LeaseLostError         another download took this one for dead
└── CorruptFileError           a file differs from what the source or the marker lists
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from modelstore.errors import InvalidNameError


class DownloadError(Exception):
    """Base of every error of this package; its text is one sentence for the operator."""


class InvalidSettingError(DownloadError):
    """A flag, an environment variable or the spec is not valid."""


class SourceError(DownloadError):
    """The source does not provide the model."""


class NotAuthorisedError(SourceError):
    """The source requires a token, another token, or accepted terms."""


class NotFoundError(SourceError):
    """The repository, revision, folder, object or published model does not exist."""


class UnsuitableModelError(SourceError):
    """The model exists but cannot be served."""


class NetworkError(SourceError):
    """The source cannot be reached or fails."""


class TransientError(NetworkError):
    """This attempt failed; ``retry_after`` is the pause in seconds that the server requests."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(DownloadError):
    """The target volume refuses an operation."""

    @classmethod
    def from_os(cls, error: OSError) -> StorageError:
        """Describe in one sentence what the operating system refused."""
        reason = f"{error.filename or 'the target'}: {error.strerror or error}"
        return NoSpaceError(reason) if error.errno in _FULL else StorageError(reason)


class NoSpaceError(StorageError):
    """The target volume is too small."""


class LeaseLostError(StorageError):
    """Another download of the same name took this one for dead and replaced it."""


class CorruptFileError(DownloadError):
    """A file differs from what the source or the marker lists."""


class InterruptedRunError(BaseException):
    """SIGTERM or SIGINT arrived; like ``KeyboardInterrupt``, this is not a program error."""


_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Exit:
    """An exit code, and whether a retry of the Job can help."""

    code: int
    is_worth_a_retry: bool


# The interface to a Job's podFailurePolicy. Docs, chart and deploy are checked against this table.
EXITS: dict[type[BaseException], Exit] = {
    Exception: Exit(1, True),
    InvalidSettingError: Exit(2, False),
    InvalidNameError: Exit(2, False),
    NotAuthorisedError: Exit(3, False),
    NotFoundError: Exit(4, False),
    NoSpaceError: Exit(5, False),
    CorruptFileError: Exit(6, True),
    NetworkError: Exit(7, True),
    UnsuitableModelError: Exit(8, False),
    InterruptedRunError: Exit(9, True),
}


def exit_of(error: BaseException) -> Exit:
    """The entry of the most specific class of ``error`` that has one."""
    return next(EXITS[kind] for kind in type(error).__mro__ if kind in EXITS)
