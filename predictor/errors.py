"""Everything the predictor refuses or fails at; ``error_responses`` maps each to one HTTP status.

PredictorError
├── InvalidRequestError   the caller's request is wrong: names the field and the reason
├── RefusedBySafetyError  a safety layer blocks the only picture of a call
├── BodyTooLargeError     the body is longer than the limit
├── OverloadedError       the queue is full; a retry helps
├── DeadlineExceededError the pictures took longer than a request may
├── GenerationFailedError the engine could not make this picture; the log has the cause
├── ModelUnavailableError the model is not in memory, and could not be brought there in time
├── ShuttingDownError     the process ends before the request is done; a retry reaches another pod
└── ModelLoadError        the model folder cannot be served; ends a process that serves it alone
    └── ModelTooLargeError it does not fit into ``memory_budget_gib``
"""

from __future__ import annotations


class PredictorError(Exception):
    """Base of every error of this package; its text is safe to show to a caller."""


class InvalidRequestError(PredictorError):
    """A field of the request is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def within(self, where: str) -> InvalidRequestError:
        """The same error told from one level up: ``width`` becomes ``instances[2].width``."""
        return InvalidRequestError(f"{where}.{self.field}" if self.field else where, self.reason)


class RefusedBySafetyError(PredictorError):
    """A safety layer blocks the picture, or the prompt, and there is nothing else to answer."""


class BodyTooLargeError(PredictorError):
    """The request body is longer than ``max_body_bytes``."""


class OverloadedError(PredictorError):
    """More pictures are waiting than ``max_queue_length``."""


class DeadlineExceededError(PredictorError):
    """The pictures were not done within ``request_timeout_seconds``."""


class GenerationFailedError(PredictorError):
    """The engine raised while it made the picture."""


class ModelLoadError(PredictorError):
    """The model folder is incomplete or does not load; the text says how to mend it."""


class ModelTooLargeError(ModelLoadError):
    """The model would not fit if it were alone."""


class ShuttingDownError(PredictorError):
    """The process ends before the request is done."""


class ModelUnavailableError(PredictorError):
    """The model did not load, is still being loaded, or is too busy to be unloaded."""

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
