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
│   ├── NotPermittedError      this process may not read or write the volume
│   └── LeaseLostError         another download took this one for dead
└── CorruptFileError           a file differs from what the source or the marker lists
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

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
        if error.errno in _FULL:
            return NoSpaceError(reason)
        if isinstance(error, PermissionError) and error.filename:
            return NotPermittedError.at(Path(error.filename), reason)
        return StorageError(reason)


class NoSpaceError(StorageError):
    """The target volume is too small."""


class NotPermittedError(StorageError):
    """The volume's owner, group and mode do not let this process write or read it.

    A retry fails the same way: the kubelet applies ``fsGroup`` to a local volume only for the first
    pod that mounts it (``SetUpAt`` in Kubernetes' ``pkg/volume/local/local.go``), and some kinds of
    volume ignore it.
    """

    @classmethod
    def at(cls, path: Path, reason: str) -> NotPermittedError:
        """Compare the owner of ``path``, or of its nearest parent that exists, with the process."""
        place = next(each for each in (path, *path.parents) if os.path.lexists(each))
        owner = place.lstat()
        groups = ", ".join(map(str, os.getgroups())) or "none"
        return cls(
            f"{reason}: {place} has uid {owner.st_uid}, gid {owner.st_gid} and mode "
            f"{stat.S_IMODE(owner.st_mode):04o}; this process has uid {os.geteuid()}, gid "
            f"{os.getegid()} and supplementary groups {groups}. Kubernetes applies fsGroup only to "
            "volumes that support it, and to a local volume only while no other pod mounts it. "
            "Delete what else mounts the volume, such as the InferenceService, and run the "
            f"download again; or give the volume's files to group {os.getegid()} (chgrp -R) and "
            "make them writable for it (chmod -R g+rwX)"
        )


class LeaseLostError(StorageError):
    """Another download of the same name assumed this one was dead and replaced it."""


class CorruptFileError(DownloadError):
    """A file differs from what the source or the marker lists."""


class InterruptedRunError(BaseException):
    """SIGTERM or SIGINT arrived; like ``KeyboardInterrupt``, this is not a program error."""


class ClosedOutputError(InterruptedRunError):
    """The program that reads stdout has ended, for example ``head``."""


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
    NotPermittedError: Exit(10, False),
}


def exit_of(error: BaseException) -> Exit:
    """The entry of the most specific class of ``error`` that has one."""
    return next(EXITS[kind] for kind in type(error).__mro__ if kind in EXITS)
