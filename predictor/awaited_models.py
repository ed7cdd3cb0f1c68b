"""KServe's registry for as long as the models are still being downloaded."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from kserve import ModelRepository

from predictor.errors import ModelUnavailableError
from predictor.repository import is_published
from predictor.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LOG_SECONDS = 300.0
_RETRY_AFTER_SECONDS = 30.0


class AwaitedModels(ModelRepository):  # type: ignore[misc]  # kserve ships no types
    """No models: each request is answered that the download is not done."""

    loads_on_demand = False

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    async def wait(self) -> None:
        """Return once the models are published, or after ``max_download_wait_seconds``."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.max_download_wait_seconds
        next_log = now()
        while not await asyncio.to_thread(_is_there, self._settings):
            if now() >= deadline:
                logger.error(
                    "gave up after max_download_wait_seconds=%g",
                    self._settings.max_download_wait_seconds,
                )
                return
            if now() >= next_log:
                logger.info("waiting for the download: %s", self._missing)
                next_log += _LOG_SECONDS
            await asyncio.sleep(_POLL_SECONDS)

    async def look_for(self, name: str) -> NoReturn:
        """Refuse.

        Raises:
            ModelUnavailableError: always.
        """
        raise ModelUnavailableError(
            f"model {name!r} is not downloaded yet; the server waits for its download",
            _RETRY_AFTER_SECONDS,
        )

    async def refresh(self) -> None:
        """Nothing: ``wait`` looks at the volume."""

    @property
    def _missing(self) -> str:
        names = " and ".join(self._settings.preload_names)
        what = f"{names} of preload" if names else "a published model"
        return (
            f"{self._settings.model_dir} does not hold {what} yet; `kubectl get jobs` shows the "
            f"download; waiting {self._settings.max_download_wait_seconds:g} s at most"
        )


def _is_there(settings: Settings) -> bool:
    """A network volume may fail for a moment: then the models are not there yet."""
    try:
        return is_published(settings)
    except OSError as error:
        logger.warning("looking for the models failed: %s", error)
        return False
