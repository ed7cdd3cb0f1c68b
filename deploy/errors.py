"""Everything that can stop a deployment, and the exit code of each.

DeployError
├── UsageError               a flag, a file or the folder's content is wrong
├── ClusterError             the cluster cannot be used
│   └── UnreachableError     it does not answer, or answers with an error of its own
├── NotPreparedError         the doctor found a problem that must be fixed first
├── RefusedError             the cluster's API refused a request
│   ├── ForbiddenError       because we lack a permission
│   └── ConflictError        because another manager set the same field
├── DownloadError            the download Job failed
├── ServiceError             the InferenceService cannot become ready
├── NotReadyError            it is not ready yet, and nothing is known to be broken
├── PredictError             the service did not answer with a picture
└── NotConfirmedError        a question was not answered with yes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DeployError(Exception):
    """Base of every error of this package; its message says what is wrong and what to do."""


class UsageError(DeployError):
    """A flag, a file or the folder's content is wrong."""


class ClusterError(DeployError):
    """The cluster cannot be used: no kubeconfig, or credentials that it does not accept."""


class UnreachableError(ClusterError):
    """The cluster does not answer, or answers with an error of its own; a retry may succeed."""


class NotPreparedError(DeployError):
    """The doctor found a problem that must be fixed first."""


class RefusedError(DeployError):
    """The cluster's API refused a request.

    ``status`` is the HTTP status, ``causes`` are the details of its `Status` answer
    (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/).
    """

    def __init__(
        self, message: str, status: int = 0, causes: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.causes = causes


class ForbiddenError(RefusedError):
    """We lack the permission."""


class ConflictError(RefusedError):
    """Another manager set the same field."""


class DownloadError(DeployError):
    """The download Job failed."""


class ServiceError(DeployError):
    """The InferenceService cannot become ready."""


class NotReadyError(DeployError):
    """It is not ready yet, and nothing is known to be broken."""


class PredictError(DeployError):
    """The service did not answer with a picture."""


class NotConfirmedError(DeployError):
    """A question was not answered with yes; nothing was done."""


# Part of the interface: scripts branch on them. docs/deploy.md has the same table.
EXIT_CODES: Mapping[type[DeployError], int] = {
    UsageError: 2,
    ClusterError: 3,
    ForbiddenError: 4,
    NotPreparedError: 5,
    RefusedError: 6,
    ConflictError: 7,
    DownloadError: 8,
    ServiceError: 9,
    NotReadyError: 10,
    PredictError: 11,
    NotConfirmedError: 12,
}
INTERRUPTED = 130


def exit_code(error: DeployError) -> int:
    """The code of the most specific class of ``error`` that has one, else 1."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)
