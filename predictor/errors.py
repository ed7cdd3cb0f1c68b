"""All errors of the predictor; ``edge/error_responses.py`` maps each to one HTTP status.

PredictorError
├── InvalidRequestError   a field of the request is invalid: names the field and the reason
│   └── UnknownModelError the field `model` names a model that is not served
├── RefusedBySafetyError  a safety layer blocks the only picture of a call
├── BodyTooLargeError     the body is longer than the limit
├── NotAuthenticatedError the request has no valid key
├── NotAuthorizedError    the key does not permit the route
├── RateLimitedError      the key or the address has used its limit for now
├── LimitsUnavailableError the limits cannot be checked, and fail closed
├── UnsupportedMediaTypeError the body is compressed or a batch of events
├── OverloadedError       the queue is full; retry later
│   ├── BodyMemoryError   the request bodies in the server take all the memory for them
│   └── WaitTooLongError  the pictures would wait or take too long
├── InterruptedCallError  the caller has interrupted the call with another request
├── DeadlineExceededError the call took longer than the timeout of the request or server
├── GenerationFailedError the engine could not generate this picture; the log has the cause
├── ModelUnavailableError the model is not in memory and could not be loaded in time
├── BodyReaderKilledError the process that read the body was killed or hung; a retry may succeed
├── ShuttingDownError     the process ends before the request is done; a retry reaches another pod
└── ModelLoadError        the model folder cannot be served; ends a server of a single model
    └── ModelTooLargeError the model does not fit into ``memory_budget_gib``
"""

from __future__ import annotations

from collections.abc import Mapping


class PredictorError(Exception):
    """Base of all errors of this package; the text is safe to show to a caller."""


class InvalidRequestError(PredictorError):
    """A field of the request is invalid."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def within(self, where: str) -> InvalidRequestError:
        """The same error one level up: ``width`` becomes ``instances[2].width``."""
        return InvalidRequestError(f"{where}.{self.field}" if self.field else where, self.reason)

    def with_spelling(self, written: Mapping[str, str]) -> InvalidRequestError:
        """The same error with the field as the caller wrote it, given by field name."""
        return InvalidRequestError(written.get(self.field, self.field), self.reason)


class UnknownModelError(InvalidRequestError):
    """The field ``model`` names a model that is not served."""


class RefusedBySafetyError(PredictorError):
    """A safety layer blocks the picture or the prompt, and the call has no other picture."""


class BodyTooLargeError(PredictorError):
    """The request body is longer than ``max_body_bytes``."""


class NotAuthenticatedError(PredictorError):
    """The request has no key, or one that is not in ``api_keys_file``."""


class NotAuthorizedError(PredictorError):
    """The key is valid, but the route requires that of an admin."""


class RateLimitedError(PredictorError):
    """A limit per minute is reached."""

    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class LimitsUnavailableError(PredictorError):
    """``rate_limit_storage`` does not answer, and ``rate_limit_failure`` is ``closed``."""


class UnsupportedMediaTypeError(PredictorError):
    """The request body is compressed, or a batch of CloudEvents."""


class OverloadedError(PredictorError):
    """The queue has no place for the call; ``retry_after_seconds`` is when it may have one."""

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class BodyMemoryError(OverloadedError):
    """The bodies of all requests together take too much memory."""


class WaitTooLongError(OverloadedError):
    """The wait would be longer than ``max_queue_seconds``, or the call than its ``timeout``."""


class InterruptedCallError(PredictorError):
    """The caller has sent ``/sdapi/v1/interrupt`` while the call was in flight."""


class DeadlineExceededError(PredictorError):
    """The call was not done within ``timeout`` or ``request_timeout_seconds``."""


class GenerationFailedError(PredictorError):
    """The engine failed while it generated the picture."""


class ModelLoadError(PredictorError):
    """The model folder is incomplete or does not load; the text says how to fix it."""


class ModelTooLargeError(ModelLoadError):
    """The model does not fit even if it is the only one."""


class ShuttingDownError(PredictorError):
    """The process ends before the request is done."""

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class BodyReaderKilledError(PredictorError):
    """The process that read the body hung, or was killed by the kernel or by an operator."""


class ModelUnavailableError(PredictorError):
    """The model failed to load, is still loading, or is too busy to unload."""

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
