"""All errors of the jobs program; ``api/error_responses.py`` maps each to one HTTP status.

``/openapi.json`` has the first line of each docstring.

JobsError
├── InvalidRequestError      a field of the request is invalid: names the field and the reason
├── NotAuthenticatedError    the request has no key, or one that is not valid
├── UnknownModelError        the field ``model`` names a model that takes no jobs
├── JobNotFoundError         no job has this identifier; its record may have expired
├── PictureNotFoundError     the job has no picture with this number
├── PictureGoneError         the picture was removed to make room for newer ones
├── IdempotencyConflictError the key was used with another body
├── BodyTooLargeError        the body is longer than ``max_body_bytes``
├── BodyTooSlowError         the body did not arrive in time
├── QueueFullError           the queue has no place for the job; retry later
├── KeyLimitError            the key has no place or has submitted too fast; retry later
├── StorageUnavailableError  the storage does not answer; retry later
├── BucketError              the bucket of the pictures does not answer, or refuses; retry later
│   └── BucketRefusedError   it refuses, or the configuration is invalid: an operator must fix it
└── StartError               the program cannot start with these settings
"""

from __future__ import annotations


class JobsError(Exception):
    """Base of all errors of this package; the text is safe to show to a caller."""


class InvalidRequestError(JobsError):
    """A field of the request is invalid."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)


class NotAuthenticatedError(JobsError):
    """The request has no key, or one that is not in ``api_keys_file``."""


class UnknownModelError(JobsError):
    """The model is not in the setting ``models``."""


class JobNotFoundError(JobsError):
    """No job has this identifier."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job has the id {job_id!r}; finished jobs are kept for expires_in")


class PictureNotFoundError(JobsError):
    """The job has no picture with this number, or not yet."""


class PictureGoneError(JobsError):
    """The picture was removed because newer ones needed the room."""


class IdempotencyConflictError(JobsError):
    """The ``Idempotency-Key`` was used with another body."""


class BodyTooLargeError(JobsError):
    """The request body is longer than ``max_body_bytes``."""


class BodyTooSlowError(JobsError):
    """The request body did not arrive in time."""


class QueueFullError(JobsError):
    """The queue holds as many jobs or bytes as it may.

    ``retry_after_seconds`` is an estimate.
    """

    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class KeyLimitError(QueueFullError):
    """A limit of the key is reached."""


class StorageUnavailableError(JobsError):
    """The storage does not answer, or cannot write."""

    retry_after_seconds = 5.0


class BucketError(JobsError):
    """The bucket of the pictures does not answer, or refuses."""

    retry_after_seconds = 5.0


class BucketRefusedError(BucketError):
    """The bucket refuses the request, or the configuration for it is invalid."""


class StartError(JobsError):
    """A setting is valid alone, but the program cannot start with it."""
