"""How a load ended: the state of the model, its metrics and the line in the log."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modelstore.layout import ADAPTERS_FOLDER_NAME
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError, ModelTooLargeError
from predictor.loading.memory import GIB
from predictor.metrics import ENGINES, MODEL_BYTES, MODEL_LOAD_SECONDS, MODEL_LOADS
from predictor.residency.resident import Failure, Resident

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

logger = logging.getLogger(__name__)

_MB = 1e6


class LoadClock:
    """The time of a load, in seconds: in all, and until the weights were in memory."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.read_seconds = 0.0

    def note_read(self) -> None:
        """The weights are in memory."""
        self.read_seconds = self.seconds

    @property
    def seconds(self) -> float:
        """The time since the load began."""
        return time.perf_counter() - self._started


def note_success(
    resident: Resident, checkpoint: Checkpoint, loaded: Loaded, needed: int, clock: LoadClock
) -> None:
    """Record a loaded model that was expected to take ``needed`` bytes of memory."""
    resident.loaded, resident.folder, resident.failure = loaded, checkpoint.folder, None
    resident.memory_bytes = max(needed, loaded.memory_bytes)
    resident.last_used = time.monotonic()
    ENGINES.watch(resident.name, loaded.engine)
    MODEL_BYTES.labels(resident.name).set(resident.memory_bytes)
    MODEL_LOADS.labels(resident.name, "loaded").inc()
    MODEL_LOAD_SECONDS.labels(resident.name).observe(clock.seconds)
    size = _size_read(checkpoint)
    # `python -m deploy doctor` finds a slow volume by this line.
    logger.info(
        "model %s: read %.0f MB of files in %.1f s, %.0f MB/s",
        resident.name,
        size / _MB,
        clock.read_seconds,
        size / _MB / max(clock.read_seconds, 1e-3),
    )
    logger.info(
        "model %s is ready after %.1f s: %.2f GiB, revision %s",
        resident.name,
        clock.seconds,
        resident.memory_bytes / GIB,
        loaded.profile.revision,
    )


def _size_read(checkpoint: Checkpoint) -> int:
    """The bytes of the model's files; adapters are read when a request uses them."""
    adapters = f"{ADAPTERS_FOLDER_NAME}/"
    files = checkpoint.marker.files
    return sum(file.size for file in files if not file.path.startswith(adapters))


def note_failure(resident: Resident, folder: Path, error: Exception) -> None:
    """Record why the model published in ``folder`` did not load."""
    cause = str(error)
    message = f"model {resident.name!r} could not be loaded; the log has the cause"
    if isinstance(error, ModelTooLargeError):
        message = cause
    if not isinstance(error, ModelLoadError):
        # For example a broken installation.
        cause = f"loading failed: {error}"
        logger.error("model %s", resident.name, exc_info=error)
    logger.error("model %s does not load: %s", resident.name, cause)
    resident.failure = Failure.after(resident.failure, folder, cause, message)
    MODEL_LOADS.labels(resident.name, "failed").inc()
