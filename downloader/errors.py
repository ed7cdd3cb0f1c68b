"""Everything that can stop a download, and the exit code of each.

DownloadError
├── InvalidSettingError        a flag, a variable or the source is no valid value
├── SourceError
│   ├── NotAuthorisedError     the hub wants a token, another token, or accepted terms
│   ├── NotFoundError          there is no such repository, revision or folder
│   ├── UnsuitableModelError   it is there, but it is nothing that may be served
│   └── NetworkError           the hub cannot be reached or fails
├── StorageError               the target volume refuses
│   ├── NoSpaceError           it is too small
│   └── InUseError             another download of the same name is under way
└── CorruptFileError           a fetched file is not the one that the source lists
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from modelstore.errors import InvalidNameError


class DownloadError(Exception):
    """Base of every error of this package; its text is one sentence for the operator."""


class InvalidSettingError(DownloadError):
    """A flag, an environment variable or the source is no valid value."""


class SourceError(DownloadError):
    """The source does not give the model."""


class NotAuthorisedError(SourceError):
    """The hub wants a token, another token, or accepted terms."""


class NotFoundError(SourceError):
    """There is no such repository, revision or folder."""


class UnsuitableModelError(SourceError):
    """The model is there, but it is nothing that may be served."""


class NetworkError(SourceError):
    """The hub cannot be reached or fails."""


class StorageError(DownloadError):
    """The target volume refuses to hold the model."""

    @classmethod
    def from_os(cls, error: OSError) -> StorageError:
        """Say in one sentence what the operating system refused."""
        reason = f"{error.filename or 'the target'}: {error.strerror or error}"
        return NoSpaceError(reason) if error.errno in _FULL else StorageError(reason)


class NoSpaceError(StorageError):
    """The target volume is too small."""


class InUseError(StorageError):
    """Another download of the same name is under way."""


class CorruptFileError(DownloadError):
    """A fetched file is not the one that the source lists."""


_FULL = (errno.ENOSPC, errno.EDQUOT)

# Part of the interface: a Job's podFailurePolicy can tell a wrong token from a network that fails.
EXIT_CODES: Mapping[type[Exception], int] = {
    InvalidSettingError: 2,
    InvalidNameError: 2,
    NotAuthorisedError: 3,
    NotFoundError: 4,
    NoSpaceError: 5,
    CorruptFileError: 6,
    NetworkError: 7,
}


def exit_code(error: Exception) -> int:
    """The code of the most particular class of ``error`` that has one, else 1."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)
